// node-postgres through the proxy. Called with a scenario's name and the connection's settings as
// JSON; prints one JSON object, or fails with the driver's error.
'use strict';
const assert = require('node:assert');
const {Client, Pool} = require(process.env.PG_MODULE || 'pg');

const INSERT = 'INSERT INTO chunks (collection_id, partition_key, chunk_index, content)';

async function relay(client) {
  const notices = [];
  const news = [];
  client.on('notice', (notice) => notices.push(notice.message));
  client.on('notification', (message) => news.push(message.payload));

  const simple = await client.query('SELECT 1 AS one; SELECT 2 AS two');
  assert.strictEqual(simple[1].rows[0].two, 2);

  const typed = await client.query(
      'SELECT $1::int AS i, $2::text AS t, $3::jsonb AS j, $4::timestamptz AS w, $5::bytea AS b, $6::int[] AS a',
      [42, 'grüße', {a: [1]}, new Date(0), Buffer.from([0, 255]), [1, 2]]);
  assert.deepStrictEqual(typed.rows[0], {
    i: 42, t: 'grüße', j: {a: [1]}, w: new Date(0), b: Buffer.from([0, 255]), a: [1, 2]});

  for (let i = 0; i < 3; i++) {
    const named = await client.query({name: 'plus', text: 'SELECT $1::int + 1 AS n', values: [i]});
    assert.strictEqual(named.rows[0].n, i + 1);
  }

  // Queued without waiting: the driver sends each after the one before it.
  const queued = await Promise.all([...Array(50).keys()].map(
      (i) => client.query('SELECT $1::int AS n', [i])));
  assert.deepStrictEqual(queued.map((result) => result.rows[0].n), [...Array(50).keys()]);

  await assert.rejects(client.query('SELECT * FROM never_was'), {code: '42P01'});
  await client.query('BEGIN');
  await assert.rejects(client.query('SELECT 1/0'), {code: '22012'});
  await assert.rejects(client.query('SELECT 1'), {code: '25P02'});
  await client.query('ROLLBACK');

  await client.query(`DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$`);
  await client.query('LISTEN news');
  await client.query(`NOTIFY news, 'extra'`);
  await client.query('SELECT 1');
  assert.deepStrictEqual(notices, ['hear, hear']);
  assert.deepStrictEqual(news, ['extra']);

  const big = await client.query('SELECT repeat($1, 1000000) AS big', ['x']);
  assert.strictEqual(big.rows[0].big.length, 1000000);
  return {ok: true};
}

// Rows that supply the key in every way in which this driver can.
async function insert(client) {
  const keys = [];
  const run = async (text, values) => {
    const result = await client.query(values ? {text, values} : text);
    keys.push(...(result.rows || []).map((row) => row.partition_key));
  };
  await run(`${INSERT} VALUES ('a', 4711, 1, 'node literal') RETURNING partition_key`);
  await run(`${INSERT} VALUES ($1, $2, $3, $4) RETURNING partition_key`, ['b', 4711, 2, 'node param']);
  await run(`${INSERT} VALUES ($1, $2, 3, 'node rows'), ($3, $4, 4, 'node rows') RETURNING partition_key`,
      ['a', 4711, 'b', null]);
  await run(`INSERT INTO chunks VALUES (DEFAULT, $1, $2, 'doc', 5, 'node positional') RETURNING partition_key`,
      ['a', 4711]);
  for (let i = 6; i < 9; i++) {
    const named = await client.query({
      name: 'ins', text: `${INSERT} VALUES ($1, $2, $3, 'node named') RETURNING partition_key`,
      values: ['b', i, i]});
    keys.push(named.rows[0].partition_key);
  }
  return {keys};
}

async function refused(client) {
  const codes = [];
  const attempt = async (text, values) => {
    try {
      await client.query({text, values});
      codes.push('ok');
    } catch (error) {
      codes.push(error.code);
    }
  };
  await attempt(`${INSERT} VALUES ('a', 1, 1, 'x')`);
  await attempt(`${INSERT} VALUES ($1, $2, $3, $4)`, ['a', 1, 1, 'x']);
  await client.query('BEGIN');
  await attempt(`${INSERT} VALUES ('a', 1, 1, 'x')`);
  await attempt('SELECT 1');
  await client.query('ROLLBACK');
  await attempt('SELECT 1');
  return {codes};
}

async function main() {
  const [scenario, settings] = [process.argv[2], JSON.parse(process.argv[3])];
  const client = new Client(settings);
  await client.connect();
  const result = await {relay, insert, refused}[scenario](client);
  await client.end();
  const pool = new Pool({...settings, max: 5});
  await Promise.all([...Array(20)].map(() => pool.query('SELECT 1')));
  await pool.end();
  console.log(JSON.stringify(result));
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
