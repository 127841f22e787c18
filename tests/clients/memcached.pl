# Perl: Cache::Memcached and Cache::Memcached::Fast have nearly the same interface.
# perl memcached.pl MODULE HOST PORT
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

my $client = $module->new({ servers => ["$host:$port"], compress_threshold => 100_000 });
my $fast = $module =~ /Fast/;
is($client->set('k', 'v', 100), 1, 'set');
is($client->get('k'), 'v', 'get');
is($client->get('none'), undef, 'a miss');
is($client->add('k', 'x') ? 1 : 0, 0, 'add of what is there');
is($client->add('new', 'x'), 1, 'add');
is($client->replace('none', 'x') ? 1 : 0, 0, 'replace of nothing');
is($client->replace('k', 'w'), 1, 'replace');
is($client->set('n', 10), 1, 'set');
is($client->incr('n', 32), 42, 'incr');
is($client->decr('n', 2), 40, 'decr');
is($client->set('structure', { list => [1, 2, 3] }), 1, 'a structure');
is(join(',', @{ $client->get('structure')->{list} }), '1,2,3', 'a structure');
my $binary = join('', map { chr } 0 .. 255) x 1000;
is($client->set('binary', $binary), 1, 'all bytes');
is($client->get('binary'), $binary, 'all bytes');
is($client->set("many:$_", "value $_"), 1, 'set') for 0 .. 299;
my $many = $client->get_multi('none', map { "many:$_" } 0 .. 299);
is(scalar(keys %$many), 300, 'get of many');
is($many->{"many:$_"}, "value $_", 'the right value') for 0 .. 299;
if ($fast) {
    my $held = $client->gets('k');
    is($client->cas('k', $held->[0], 'y'), 1, 'cas');
    is($client->cas('k', $held->[0], 'z') ? 1 : 0, 0, 'an old cas');
    is($client->append('k', '!'), 1, 'append');
    is($client->prepend('k', '?'), 1, 'prepend');
    is($client->get('k'), '?y!', 'both ends');
    is($client->touch('k', 100), 1, 'touch');
}
is($client->delete('k'), 1, 'delete');
is($client->delete('k') ? 1 : 0, 0, 'delete of nothing');
is($client->flush_all ? 1 : 0, 1, 'flush_all');
is($client->get('n'), undef, 'all is gone');
$client->disconnect_all;
print "checks $checks\n";
