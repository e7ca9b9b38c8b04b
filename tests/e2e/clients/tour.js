// What the two Node.js clients of the drivers' tour share; tests/lib/tour.py says what it shows.
'use strict';
const fs = require('node:fs');
const path = require('node:path');

const settings = JSON.parse(process.argv[2]);
const tally = {rows: 0, supplied: 0};

exports.settings = settings;
exports.ssl = settings.tls ? {ca: fs.readFileSync(settings.ca, 'utf8'), rejectUnauthorized: true} : false;
exports.KEYS = {a: 57, b: -88}; // what the expression gives
exports.WRONG = 4711;
exports.INSERT = 'INSERT INTO chunks (collection_id, partition_key, chunk_index, content)';
exports.SLEEP = 'SELECT pg_sleep(60)';
exports.LARGE = `SELECT n, repeat('x', 1000) AS text FROM generate_series(1, 3000) n`;

exports.wrote = (count, {supplied = true, committed = true} = {}) => {
  tally.rows += committed ? count : 0;
  tally.supplied += supplied ? count : 0;
};

exports.areRight = (rows) => rows.every((row) => exports.KEYS[row.collection_id] === row.partition_key);

/** Runs the client's walk; its report is the last line, and an error its failure. */
exports.run = (client, walk) => {
  walk().then(() => console.log(JSON.stringify(tally))).catch((error) => {
    console.error(path.basename(client), error);
    process.exit(1);
  });
};

/** The module's folder is found where the tests have installed it. */
exports.driver = () => require(process.env.DRIVER_MODULE);
