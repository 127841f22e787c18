<?php
// phpredis: php redis.php HOST PORT
[, $host, $port] = $argv;
if (!extension_loaded('redis')) {
    fwrite(STDERR, "missing redis\n");
    exit(3);
}
$checks = 0;
function is($got, $expected, string $what): void {
    global $checks;
    if ($got !== $expected) {
        fwrite(STDERR, "failed: $what: got " . var_export($got, true) . ', expected ' . var_export($expected, true) . "\n");
        exit(1);
    }
    $checks++;
}

$redis = new Redis();
is($redis->connect($host, (int) $port, 20), true, 'connect');
is($redis->ping('hello'), 'hello', 'ping');
is($redis->set('k', 'v', ['nx', 'ex' => 100]), true, 'set');
is($redis->set('k', 'x', ['nx']), false, 'set of what is there');
is($redis->get('k'), 'v', 'get');
is($redis->get('none'), false, 'a miss');
is($redis->ttl('k') > 90, true, 'ttl');
is($redis->setex('short', 100, 'v'), true, 'setex');
is($redis->incrBy('n', 41), 41, 'incrBy');
is($redis->incr('n'), 42, 'incr');
is($redis->incrByFloat('f', 1.5), 1.5, 'incrByFloat');
is($redis->append('k', '!'), 2, 'append');
is($redis->strlen('k'), 2, 'strlen');
is($redis->getSet('k', 'w'), 'v!', 'getSet');
is($redis->mset(['a' => '1', 'b' => '2']), true, 'mset');
is($redis->mget(['a', 'none', 'b']), ['1', false, '2'], 'mget');
is($redis->exists('a', 'none'), 1, 'exists');
is($redis->type('a'), Redis::REDIS_STRING, 'type');
$binary = implode('', array_map('chr', range(0, 255)));
is($redis->set($binary, str_repeat($binary, 4000)), true, 'all bytes');
is($redis->get($binary) === str_repeat($binary, 4000), true, 'all bytes');
is($redis->set('list', 'x') && $redis->incr('list') === false, true, 'a text is no number');
is(str_contains($redis->getLastError(), 'not an integer'), true, 'and the error says so');
$redis->clearLastError();
$redis->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_PHP);
is($redis->set('structure', ['list' => [1, 2, 3]]), true, 'a structure');
is($redis->get('structure'), ['list' => [1, 2, 3]], 'a structure');
$redis->setOption(Redis::OPT_SERIALIZER, Redis::SERIALIZER_NONE);
$pipe = $redis->multi(Redis::PIPELINE);
for ($i = 0; $i < 1000; $i++) {
    $pipe->set("p:$i", "$i")->get("p:$i");
}
$expected = [];
for ($i = 0; $i < 1000; $i++) {
    array_push($expected, true, "$i");
}
is($pipe->exec(), $expected, 'a pipeline');
$redis->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
$cursor = null;
$found = 0;
while ($keys = $redis->scan($cursor, 'p:*', 100)) {
    $found += count($keys);
}
is($found, 1000, 'scan');
is($redis->info('server')['redis_version'], '7.2.4', 'info');
is($redis->del('a', 'b', 'none'), 2, 'del');
is($redis->unlink('n'), 1, 'unlink');
is($redis->flushAll(), true, 'flushAll');
is($redis->dbSize(), 0, 'dbSize');
is($redis->close(), true, 'close');
echo "checks $checks\n";
