// hiredis: formatted commands, binary arguments, pipelines and every type of reply of RESP2.
// cc hiredis.c -lhiredis; a.out HOST PORT
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks;
static redisContext *context;

static void check(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "failed: %s (%s)\n", what, context ? context->errstr : "");
        exit(1);
    }
    checks++;
}

static redisReply *ask(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    redisReply *reply = redisvCommand(context, format, arguments);
    va_end(arguments);
    check(reply != NULL, format);
    return reply;
}

static void is_text(redisReply *reply, int type, const char *text) {
    check(reply->type == type && reply->len == strlen(text) && !memcmp(reply->str, text, reply->len), text);
    freeReplyObject(reply);
}

static void is_number(redisReply *reply, long long number) {
    check(reply->type == REDIS_REPLY_INTEGER && reply->integer == number, "a number");
    freeReplyObject(reply);
}

static void is_nil(redisReply *reply) {
    check(reply->type == REDIS_REPLY_NIL, "nil");
    freeReplyObject(reply);
}

int main(int count, char **words) {
    if (count != 3) return 2;
    struct timeval patience = {20, 0};
    context = redisConnectWithTimeout(words[1], atoi(words[2]), patience);
    check(context && !context->err, "connect");
    redisSetTimeout(context, patience);

    is_text(ask("PING"), REDIS_REPLY_STATUS, "PONG");
    is_text(ask("SET greeting %s EX 100", "hello"), REDIS_REPLY_STATUS, "OK");
    is_text(ask("GET greeting"), REDIS_REPLY_STRING, "hello");
    is_nil(ask("GET none"));
    is_nil(ask("SET greeting again NX"));
    is_number(ask("EXISTS greeting none"), 1);
    is_number(ask("INCRBY counter 41"), 41);
    is_number(ask("INCR counter"), 42);
    is_number(ask("DECRBY counter 50"), -8);
    is_number(ask("TTL counter"), -1);
    is_text(ask("TYPE counter"), REDIS_REPLY_STATUS, "string");

    redisReply *reply = ask("NOSUCH command");
    check(reply->type == REDIS_REPLY_ERROR && !strncmp(reply->str, "ERR unknown command 'NOSUCH'", 28), "unknown");
    freeReplyObject(reply);
    reply = ask("INCR greeting");
    check(reply->type == REDIS_REPLY_ERROR && strstr(reply->str, "not an integer") != NULL, "not an integer");
    freeReplyObject(reply);

    char bytes[256];
    for (int i = 0; i < 256; i++) bytes[i] = (char)i;
    is_text(ask("SET %b %b", bytes, sizeof bytes, bytes, sizeof bytes), REDIS_REPLY_STATUS, "OK");
    reply = ask("GET %b", bytes, sizeof bytes);
    check(reply->type == REDIS_REPLY_STRING && reply->len == 256 && !memcmp(reply->str, bytes, 256), "all bytes");
    freeReplyObject(reply);

    size_t large_len = 3000000;
    char *large = malloc(large_len);
    for (size_t i = 0; i < large_len; i++) large[i] = (char)(i * 31 + i / 256);
    is_text(ask("SET large %b", large, large_len), REDIS_REPLY_STATUS, "OK");
    reply = ask("GET large");
    check(reply->len == large_len && !memcmp(reply->str, large, large_len), "a large value");
    freeReplyObject(reply);
    free(large);

    is_text(ask("MSET a 1 b 2 c 3"), REDIS_REPLY_STATUS, "OK");
    reply = ask("MGET a none c");
    check(reply->type == REDIS_REPLY_ARRAY && reply->elements == 3, "an array");
    check(!strcmp(reply->element[0]->str, "1") && reply->element[1]->type == REDIS_REPLY_NIL, "its elements");
    freeReplyObject(reply);

    for (int i = 0; i < 5000; i++) {
        check(redisAppendCommand(context, "SET pipe:%d %d", i, i) == REDIS_OK, "append");
        check(redisAppendCommand(context, "GET pipe:%d", i) == REDIS_OK, "append");
    }
    for (int i = 0; i < 5000; i++) {
        char expected[16];
        snprintf(expected, sizeof expected, "%d", i);
        check(redisGetReply(context, (void **)&reply) == REDIS_OK, "a reply");
        is_text(reply, REDIS_REPLY_STATUS, "OK");
        check(redisGetReply(context, (void **)&reply) == REDIS_OK, "a reply");
        is_text(reply, REDIS_REPLY_STRING, expected);
    }
    is_number(ask("DEL a b c none"), 3);
    redisFree(context);
    printf("checks %d\n", checks);
    return 0;
}
