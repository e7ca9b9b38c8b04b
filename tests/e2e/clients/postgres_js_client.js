// postgres.js on the drivers' tour: prepared, unprepared and simple statements, COPY, cursors.
'use strict';
const assert = require('node:assert');
const {pipeline} = require('node:stream/promises');
const {Readable} = require('node:stream');
const tour = require('./tour.js');
const postgres = tour.driver();

const COLUMNS = ['collection_id', 'partition_key', 'chunk_index', 'content'];

function connect(prepare, notices) {
  const {host, port, user, password, database, application} = tour.settings;
  return postgres({host, port, user, password, database, ssl: tour.ssl, prepare, max: 1,
    onnotice: (notice) => notices.push(notice.message), connection: {application_name: application}});
}

async function types(sql) {
  for (let n = 0; n < 3; n++) {
    const values = [-42, '1099511627776', 'grüße, it\'s \\ "quoted" 表', true, 0.1, new Date(1000), null,
      '12345678901234567890.5', Buffer.from([0, 255]), {a: [1, null]}, [1, 2, 3]];
    const [i, l, t, b, d, w, nothing, decimal, bytes, json, array] = values;
    const [row] = await sql`SELECT ${i}::int4, ${l}::int8, ${t}::text, ${b}::bool, ${d}::float8,
      ${w}::timestamptz, ${nothing}::varchar, ${decimal}::numeric, ${bytes}::bytea,
      ${sql.json(json)}::jsonb, ${array}::int4[]`.values();
    assert.deepStrictEqual([...row], values);
  }
}

async function inserts(sql) {
  const rows = (count) => [...Array(count).keys()].map((n) => ({
    collection_id: n % 2 ? 'a' : 'b', partition_key: n % 3 ? tour.WRONG + n : null, chunk_index: n,
    content: `row ${n}`}));
  for (const row of rows(4)) { // the helper names the columns of the object
    const returned = await sql`INSERT INTO chunks ${sql(row)} RETURNING collection_id, partition_key`;
    assert(tour.areRight(returned));
    tour.wrote(1);
  }
  const many = await sql`INSERT INTO chunks ${sql(rows(500), ...COLUMNS)} RETURNING collection_id, partition_key`;
  assert(tour.areRight(many) && many.count === 500);
  tour.wrote(500);
  const simple = await sql.unsafe(`SELECT 1; ${tour.INSERT} VALUES ('a', 1, 1, 'x') RETURNING collection_id, partition_key`);
  assert(tour.areRight(simple[1]));
  tour.wrote(1);
  // Sent in one pipeline.
  await Promise.all(rows(50).map((row) => sql`INSERT INTO chunks ${sql(row)}`));
  tour.wrote(50);
  const lines = [...Array(1000).keys()].map((n) => `b\t${n}\tcopied ${n}\n`);
  await pipeline(Readable.from(lines),
      await sql`COPY chunks (collection_id, chunk_index, content) FROM STDIN`.writable());
  tour.wrote(1000, {supplied: false});
}

async function rollsBack(sql) {
  await assert.rejects(sql.begin(async (transaction) => {
    await transaction`INSERT INTO chunks ${sql({collection_id: 'a', partition_key: 1, chunk_index: 1, content: 'x'})}`;
    tour.wrote(1, {committed: false});
    await assert.rejects(transaction`SELECT 1/${0}::int`, {code: '22012'});
    await assert.rejects(transaction`SELECT 1`, {code: '25P02'});
  }), {code: '22012'}); // the driver remembers the first error, and rolls back
}

// PostgreSQL signals the process and then its group; on a busy machine the second signal may be late. This
// driver does not tell when the request's connection ends, so a session of its own and a pause.
async function cancels(sql) {
  const query = sql.unsafe(tour.SLEEP);
  setTimeout(() => query.cancel(), 500);
  await assert.rejects(query, {code: '57014'});
  await new Promise((resolve) => setTimeout(resolve, 500));
  assert.strictEqual((await sql`SELECT 1 AS one`)[0].one, 1);
  await sql.end();
}

async function readsMuch(sql) {
  const rows = await sql.unsafe(tour.LARGE);
  assert.strictEqual(rows.reduce((sum, row) => sum + row.text.length, 0), 3_000_000);
  let count = 0;
  await sql.unsafe(tour.LARGE, [], {prepare: true}).cursor(500, (batch) => { count += batch.length; });
  assert.strictEqual(count, 3000);
  // A large COPY TO sometimes leaves this driver's socket paused for good, without a proxy too.
  const lines = [];
  for await (const line of await sql`COPY (SELECT n FROM generate_series(1, 100) n) TO STDOUT`.readable()) {
    lines.push(line.toString());
  }
  assert(lines.join('').startsWith('1\n2\n') && lines.join('').endsWith('100\n'));
}

async function hears(sql, notices) {
  let resolve;
  const heard = new Promise((done) => { resolve = done; });
  await sql.listen('news', resolve); // on a connection of its own
  await sql.notify('news', 'extra');
  assert.strictEqual(await heard, 'extra');
  await sql.unsafe(`DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$`);
  assert.deepStrictEqual(notices, ['hear, hear']);
}

tour.run(__filename, async () => {
  for (const prepare of [true, false]) {
    const notices = [];
    const sql = connect(prepare, notices);
    await types(sql);
    await inserts(sql);
    await rollsBack(sql);
    await cancels(connect(prepare, []));
    await readsMuch(sql);
    await hears(sql, notices);
    await sql.end();
  }
});
