// ioredis: node ioredis.js HOST PORT [cluster]
import Redis from 'ioredis';
import { done, host, is, mode, port, refuses } from './check.js';

const redis =
  mode === 'cluster' ? new Redis.Cluster([{ host, port: Number(port) }]) : new Redis(Number(port), host, { connectionName: 'scenario' });
is(await redis.ping(), 'PONG');
is(await redis.set('k', 'grün', 'EX', 100), 'OK');
is(await redis.get('k'), 'grün');
is(await redis.get('none'), null);
is(await redis.set('k', 'x', 'NX'), null);
is((await redis.ttl('k')) > 90, true);
is(await redis.incrby('n', 41), 41);
is(await redis.incr('n'), 42);
is(await redis.append('k', '!'), 6);
is(await redis.del('k'), 1);
is(await redis.exists('k'), 0);
await redis.set('text', 'x');
await refuses(redis.incr('text'), /not an integer/);
await refuses(redis.call('NOSUCH', 'x'), /unknown command/);
const binary = Buffer.from(Array.from({ length: 512_000 }, (_, i) => i % 256));
is(await redis.set('binary', binary), 'OK');
is((await redis.getBuffer('binary')).equals(binary), true);
is(await redis.mset({ '{t}a': 1, '{t}b': 2 }), 'OK');
is(await redis.mget('{t}a', '{t}none', '{t}b'), ['1', null, '2']);
const all = await Promise.all(
  Array.from({ length: 2000 }, (_, i) => redis.set(`p:${i}`, i).then(() => redis.get(`p:${i}`))),
);
is(all, Array.from({ length: 2000 }, (_, i) => String(i)));
const pipeline = redis.pipeline();
for (let i = 0; i < 500; i += 1) pipeline.set(`{q}${i}`, i).get(`{q}${i}`);
const answers = await pipeline.exec();
is(answers, Array.from({ length: 1000 }, (_, i) => [null, i % 2 ? String((i - 1) / 2) : 'OK']));
if (mode === 'cluster') {
  const nodes = redis.nodes('master').map((node) => Number(node.options.port));
  is(nodes.every((node) => node > Number(port)), true, 'the ports of cores');
} else {
  is(await redis.client('GETNAME'), 'scenario');
  const stream = redis.scanStream({ match: 'p:*', count: 200 });
  const keys = new Set();
  for await (const page of stream) page.forEach((key) => keys.add(key));
  is(keys.size, 2000);
  is((await redis.info('server')).includes('redis_version:7.2.4'), true);
  is(await redis.flushall(), 'OK');
  is(await redis.dbsize(), 0);
}
await redis.quit();
done();
