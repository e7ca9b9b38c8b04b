// pgx on the drivers' tour: simple and prepared statements, binary parameters and results, batches, and
// COPY in binary. The argument is the settings as JSON, the last line of output the report.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"reflect"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
)

const (
	insert    = "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) "
	returning = " RETURNING collection_id, partition_key"
	large     = "SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n"
	wrong     = 4711
)

var keys = map[string]int{"a": 57, "b": -88} // what the expression gives

var tally struct {
	Rows     int `json:"rows"`
	Supplied int `json:"supplied"`
}

type settings struct {
	Host, User, Password, Database, Application, Ca string
	Port                                            int
	Tls                                             bool
}

func check(right bool, what string) {
	if !right {
		panic(what)
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func stateOf(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Code
	}
	return fmt.Sprint(err)
}

func connect(given settings, simple bool) *pgx.Conn {
	config, err := pgx.ParseConfig(mode(given))
	must(err)
	config.Host, config.Port = given.Host, uint16(given.Port)
	config.User, config.Password, config.Database = given.User, given.Password, given.Database
	config.RuntimeParams["application_name"] = given.Application
	config.PreferSimpleProtocol = simple
	connection, err := pgx.ConnectConfig(context.Background(), config)
	must(err)
	return connection
}

func mode(given settings) string {
	if given.Tls {
		return "host=" + given.Host + " sslmode=verify-full sslrootcert=" + given.Ca
	}
	return "host=" + given.Host + " sslmode=disable"
}

func types(ctx context.Context, connection *pgx.Conn) {
	now := time.Unix(1772281801, 500000).UTC()
	for n := 0; n < 3; n++ {
		var (
			i4      int32
			i8      int64
			text    string
			yes     bool
			f8      float64
			when    time.Time
			bytes   []byte
			nothing *string
			list    []int32
			id      [16]byte
		)
		sent := [16]byte{0x5b, 0x9c, 15: 0x51}
		must(connection.QueryRow(ctx, `SELECT $1::int4, $2::int8, $3::text, $4::bool, $5::float8,
			$6::timestamptz, $7::bytea, $8::varchar, $9::int4[], $10::uuid`, int32(-42), int64(1)<<40,
			"grüße, it's \\ \"quoted\" 表", true, 0.1, now, []byte{0, 255}, nil, []int32{1, 2, 3},
			fmt.Sprintf("%x", sent)).Scan(
			&i4, &i8, &text, &yes, &f8, &when, &bytes, &nothing, &list, &id))
		check(i4 == -42 && i8 == 1<<40 && text == "grüße, it's \\ \"quoted\" 表" && yes && f8 == 0.1,
			"scalars")
		check(when.Equal(now) && nothing == nil && id == sent, "time, NULL, uuid")
		check(reflect.DeepEqual(bytes, []byte{0, 255}) && reflect.DeepEqual(list, []int32{1, 2, 3}),
			"bytes and arrays")
	}
}

func isRight(rows pgx.Rows) bool {
	right := true
	for rows.Next() {
		var collection string
		var key int
		must(rows.Scan(&collection, &key))
		right = right && keys[collection] == key
	}
	must(rows.Err())
	return right
}

func inserts(ctx context.Context, connection *pgx.Conn) {
	_, err := connection.Prepare(ctx, "one", insert+"VALUES ($1, $2, $3, $4)"+returning)
	must(err)
	supplied := wrong
	for n, key := range []*int{&supplied, nil, &supplied} {
		for _, text := range []string{"one", insert + "VALUES ($1, $2, $3, $4)" + returning} {
			if connection.Config().PreferSimpleProtocol && text == "one" {
				continue
			}
			rows, err := connection.Query(ctx, text, "b", key, n, "one")
			must(err)
			check(isRight(rows), "the key that RETURNING gives")
			tally.Rows++
			tally.Supplied++
		}
	}
	batch := &pgx.Batch{}
	for n := 0; n < 200; n++ {
		batch.Queue(insert+"VALUES ($1, $2, $3, 'batch')"+returning, "a", wrong+n, n)
	}
	results := connection.SendBatch(ctx, batch)
	for n := 0; n < 200; n++ {
		rows, err := results.Query()
		must(err)
		check(isRight(rows), "the key in a batch")
	}
	must(results.Close())
	tally.Rows += 200
	tally.Supplied += 200
	copied, err := connection.CopyFrom(ctx, pgx.Identifier{"chunks"},
		[]string{"collection_id", "chunk_index", "content"},
		pgx.CopyFromSlice(1000, func(n int) ([]interface{}, error) {
			return []interface{}{"b", n, fmt.Sprint("copied ", n)}, nil
		}))
	must(err)
	check(copied == 1000, "rows copied")
	tally.Rows += 1000
}

func rollsBack(ctx context.Context, connection *pgx.Conn) {
	transaction, err := connection.Begin(ctx)
	must(err)
	_, err = transaction.Exec(ctx, insert+"VALUES ($1, 1, 1, 'rolled back')", "a")
	must(err)
	tally.Supplied++
	_, err = transaction.Exec(ctx, "SELECT 1/$1::int", 0)
	check(stateOf(err) == "22012", "22012")
	_, err = transaction.Exec(ctx, "SELECT 1")
	check(stateOf(err) == "25P02", "25P02")
	must(transaction.Rollback(ctx))
}

func cancels(ctx context.Context, connection *pgx.Conn) {
	cancelled := make(chan error)
	time.AfterFunc(500*time.Millisecond, func() {
		cancelled <- connection.PgConn().CancelRequest(ctx)
	})
	_, err := connection.Exec(ctx, "SELECT pg_sleep(60)")
	check(stateOf(err) == "57014", "57014")
	must(<-cancelled) // the server has closed the request's connection, and sends no more signals
	_, err = connection.Exec(ctx, "SELECT 1")
	must(err)
}

func readsMuch(ctx context.Context, connection *pgx.Conn) {
	rows, err := connection.Query(ctx, large)
	must(err)
	length := 0
	for rows.Next() {
		var n int
		var text string
		must(rows.Scan(&n, &text))
		length += len(text)
	}
	must(rows.Err())
	check(length == 3000000, "a large result")
}

func hears(ctx context.Context, connection *pgx.Conn) {
	_, err := connection.Exec(ctx, "LISTEN news")
	must(err)
	_, err = connection.Exec(ctx, "NOTIFY news, 'extra'")
	must(err)
	limited, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	heard, err := connection.WaitForNotification(limited)
	must(err)
	check(heard.Payload == "extra", "the notification")
}

func main() {
	var given settings
	must(json.Unmarshal([]byte(os.Args[1]), &given))
	ctx := context.Background()
	for _, simple := range []bool{false, true} {
		connection := connect(given, simple)
		types(ctx, connection)
		inserts(ctx, connection)
		rollsBack(ctx, connection)
		cancels(ctx, connection)
		readsMuch(ctx, connection)
		hears(ctx, connection)
		must(connection.Close(ctx))
	}
	report, err := json.Marshal(tally)
	must(err)
	fmt.Println(string(report))
}
