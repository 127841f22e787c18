// What the scenarios of this folder share: checks that count themselves.
import assert from 'node:assert/strict';

let checks = 0;

export function is(got, expected, what) {
  assert.deepEqual(got, expected, what);
  checks += 1;
}

export async function refuses(promise, pattern, what) {
  await assert.rejects(promise, pattern, what);
  checks += 1;
}

export function done() {
  console.log(`checks ${checks}`);
}

export const [host, port, mode] = process.argv.slice(2);
