// node-postgres on the drivers' tour: simple, parameterised and named statements. It sends Buffers in
// binary; results it reads as text only.
'use strict';
const assert = require('node:assert');
const tour = require('./tour.js');
const {Client} = tour.driver();

const RETURNING = 'RETURNING collection_id, partition_key';

function newClient() {
  const {host, port, user, password, database, application} = tour.settings;
  return new Client({host, port, user, password, database, application_name: application,
    ssl: tour.ssl});
}

async function types(client) {
  const casts = ['int4', 'int8', 'text', 'bool', 'float8', 'timestamptz', 'varchar', 'numeric', 'bytea',
    'jsonb', 'uuid', 'int4[]'];
  const values = [-42, '1099511627776', 'grüße, it\'s \\ "quoted" 表', true, 0.1, new Date(1000), null,
    '12345678901234567890.5', Buffer.from([0, 255]), {a: [1, null]},
    '5b9c5dd5-24a5-4b3e-9d1f-0f6f3a1f9d51', [1, 2, 3]];
  const text = 'SELECT ' + casts.map((cast, n) => `$${n + 1}::${cast} AS v${n}`).join(', ');
  for (const name of [undefined, 'types', 'types']) {
    const {rows} = await client.query({name, text, values, rowMode: 'array'});
    assert.deepStrictEqual(rows[0], values);
  }
}

async function inserts(client) {
  const literal = await client.query(`${tour.INSERT} VALUES ('a', 4711, 1, 'literal'), ('b', NULL, 2, 'x') ${RETURNING}`);
  assert(tour.areRight(literal.rows) && literal.rowCount === 2);
  tour.wrote(2);
  for (const name of [undefined, 'one', 'one', 'one']) {
    const {rows} = await client.query({name, text: `${tour.INSERT} VALUES ($1, $2, $3, $4) ${RETURNING}`,
      values: ['b', name ? tour.WRONG : null, 3, 'parameters']});
    assert(tour.areRight(rows));
    tour.wrote(1);
  }
  // Many rows: one statement with 4 * 500 parameters.
  const values = [...Array(500).keys()].flatMap((n) => ['a', tour.WRONG + n, n, `row ${n}`]);
  const tuples = [...Array(500).keys()].map((n) => `($${4 * n + 1}, $${4 * n + 2}, $${4 * n + 3}, $${4 * n + 4})`);
  const many = await client.query(`${tour.INSERT} VALUES ${tuples.join(', ')} ${RETURNING}`, values);
  assert(tour.areRight(many.rows) && many.rowCount === 500);
  tour.wrote(500);
  // Queued without waiting for the answers.
  await Promise.all([...Array(50).keys()].map(
      (n) => client.query(`${tour.INSERT} VALUES ($1, $2, $3, 'queued')`, ['b', n, n])));
  tour.wrote(50);
}

async function rollsBack(client) {
  await client.query('BEGIN');
  await client.query(`${tour.INSERT} VALUES ($1, 1, 1, 'rolled back')`, ['a']);
  tour.wrote(1, {committed: false});
  await assert.rejects(client.query('SELECT 1/$1::int', [0]), {code: '22012'});
  await assert.rejects(client.query('SELECT 1'), {code: '25P02'});
  await client.query('ROLLBACK');
}

async function cancels(client) {
  const {Query} = tour.driver();
  const query = new Query(tour.SLEEP);
  const ended = new Promise((resolve) => query.on('error', resolve));
  client.query(query);
  await new Promise((resolve) => setTimeout(resolve, 500));
  const canceller = newClient();
  const closed = new Promise((resolve) => canceller.connection.on('end', resolve));
  canceller.cancel(client, query);
  assert.strictEqual((await ended).code, '57014');
  await closed; // from then on the server sends no more signals
  assert.strictEqual((await client.query('SELECT 1 AS one')).rows[0].one, 1);
}

async function readsMuch(client) {
  const {rows} = await client.query({text: tour.LARGE, rowMode: 'array'});
  assert.strictEqual(rows.reduce((sum, row) => sum + row[1].length, 0), 3_000_000);
}

async function hears(client) {
  const notices = [];
  client.on('notice', (notice) => notices.push(notice.message));
  const heard = new Promise((resolve) => client.on('notification', resolve));
  await client.query(`DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$`);
  await client.query('LISTEN news');
  await client.query(`NOTIFY news, 'extra'`);
  assert.strictEqual((await heard).payload, 'extra');
  assert.deepStrictEqual(notices, ['hear, hear']);
}

tour.run(__filename, async () => {
  const client = newClient();
  await client.connect();
  await types(client);
  await inserts(client);
  await rollsBack(client);
  await cancels(client);
  await readsMuch(client);
  await hears(client);
  await client.end();
});
