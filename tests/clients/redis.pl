# Perl: Redis and Redis::Fast have the same interface.
# perl redis.pl MODULE HOST PORT
use strict;
use warnings;

my ($module, $host, $port) = @ARGV;
eval "require $module" or die "missing $module\n";
my $checks = 0;

# The prototype asks for scalars: some calls answer with an empty list.
sub is($$$) {
    my ($got, $expected, $what) = @_;
    my $same = defined $got && defined $expected ? $got eq $expected : !defined $got && !defined $expected;
    die "failed: $what: got " . ($got // 'undef') . ', expected ' . ($expected // 'undef') . "\n" unless $same;
    $checks++;
}

my $redis = $module->new(server => "$host:$port", name => 'scenario');
is($redis->ping, 'PONG', 'ping');
is($redis->client_getname, 'scenario', 'name');
is($redis->set(greeting => 'hello', 'EX', 100), 'OK', 'set');
is($redis->get('greeting'), 'hello', 'get');
is($redis->get('none'), undef, 'a miss');
is($redis->exists('greeting'), 1, 'exists');
is($redis->ttl('greeting') > 90, 1, 'ttl');
is($redis->incrby('counter', 41), 41, 'incrby');
is($redis->incr('counter'), 42, 'incr');
is($redis->append('greeting', ' world'), 11, 'append');
is($redis->getrange('greeting', -5, -1), 'world', 'getrange');
is($redis->mset(a => 1, b => 2), 'OK', 'mset');
is(join(',', map { $_ // '-' } $redis->mget('a', 'none', 'b')), '1,-,2', 'mget');
my $binary = join('', map { chr } 0 .. 255) x 1000;
is($redis->set('binary', $binary), 'OK', 'set of all bytes');
is($redis->get('binary'), $binary, 'all bytes');
is(eval { $redis->incr('greeting'); 1 }, undef, 'a text is no number');
is($@ =~ /not an integer/ ? 1 : 0, 1, 'and the error says so');
is($redis->ping, 'PONG', 'an error is no end');
my $info = $redis->info;
is($info->{redis_version}, '7.2.4', 'info');
my @answers;
for my $i (0 .. 999) {
    $redis->set("pipe:$i", $i, sub { });
    $redis->get("pipe:$i", sub { push @answers, $_[0] });
}
$redis->wait_all_responses;
is(join(',', @answers), join(',', 0 .. 999), 'a pipeline');
is(scalar(my @keys = $redis->keys('pipe:*')), 1000, 'keys');
is($redis->del('a', 'b', 'none'), 2, 'del');
is($redis->flushall, 'OK', 'flushall');
is($redis->dbsize, 0, 'dbsize');
$redis->quit;
print "checks $checks\n";
