<?php
// php-memcached (libmemcached): php memcached.php HOST PORT
[, $host, $port] = $argv;
if (!extension_loaded('memcached')) {
    fwrite(STDERR, "missing memcached\n");
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

$client = new Memcached();
is($client->addServer($host, (int) $port), true, 'addServer');
is($client->set('k', 'v', 100), true, 'set');
is($client->get('k'), 'v', 'get');
is($client->get('none'), false, 'a miss');
is($client->getResultCode(), Memcached::RES_NOTFOUND, 'a miss');
is($client->add('k', 'x'), false, 'add of what is there');
is($client->getResultCode(), Memcached::RES_NOTSTORED, 'add of what is there');
is($client->add('new', 'x'), true, 'add');
is($client->replace('none', 'x'), false, 'replace of nothing');
$held = $client->get('k', null, Memcached::GET_EXTENDED);
is($client->cas($held['cas'], 'k', 'w'), true, 'cas');
is($client->cas($held['cas'], 'k', 'x'), false, 'an old cas');
is($client->getResultCode(), Memcached::RES_DATA_EXISTS, 'an old cas');
is($client->set('n', 10), true, 'set');
is($client->increment('n', 32), 42, 'increment');
is($client->decrement('n', 50), 0, 'decrement');
is($client->increment('none'), false, 'increment of nothing');
is($client->touch('n', 100), true, 'touch');
is($client->set('structure', ['list' => [1, 2, 3], 'x' => 1.5, 'null' => null]), true, 'a structure');
is($client->get('structure'), ['list' => [1, 2, 3], 'x' => 1.5, 'null' => null], 'a structure');
$client->setOption(Memcached::OPT_COMPRESSION, false);
is($client->append('k', '!'), true, 'append');
is($client->prepend('k', '?'), true, 'prepend');
is($client->get('k'), '?w!', 'both ends');
$binary = str_repeat(implode('', array_map('chr', range(0, 255))), 2000);
is($client->set('binary', $binary), true, 'all bytes');
is($client->get('binary') === $binary, true, 'all bytes');
is($client->set('large', str_repeat('x', 3000000)), false, 'too large');
$client->quit();
$many = [];
for ($i = 0; $i < 500; $i++) {
    $many["many:$i"] = "value $i";
}
is($client->setMulti($many), true, 'setMulti');
is($client->getMulti(array_keys($many)), $many, 'getMulti');
is($client->getVersion()["$host:$port"], '1.6.45', 'version');
is((int) $client->getStats()["$host:$port"]['curr_items'] > 500, true, 'stats');
is($client->deleteMulti(['many:1', 'none']), ['many:1' => true, 'none' => Memcached::RES_NOTFOUND], 'deleteMulti');
is($client->flush(), true, 'flush');
is($client->get('k'), false, 'all is gone');
echo "checks $checks\n";
