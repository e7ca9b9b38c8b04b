// The JDBC driver on the drivers' tour: simple, extended, prepared on the server after five uses, and
// binary from the first. Arguments: the URL, user, password, application name, and the CA's file or nothing
// for a connection without TLS; the last line of output is the report.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.math.BigDecimal;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.time.OffsetDateTime;
import java.util.Arrays;
import java.util.Map;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.jdbc.PreferQueryMode;

public final class Tour {
    private static final String INSERT =
        "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) ";
    private static final String LARGE =
        "SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n";
    private static final Map<String, Integer> KEYS = Map.of("a", 57, "b", -88); // the expression's

    private static int rows;
    private static int supplied;

    static Connection connect(String[] args, String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", args[1]);
        properties.setProperty("password", args[2]);
        properties.setProperty("ApplicationName", args[3]);
        properties.setProperty("sslmode", args[4].isEmpty() ? "disable" : "verify-full");
        if (!args[4].isEmpty()) {
            properties.setProperty("sslrootcert", args[4]);
        }
        for (int i = 0; i < options.length; i += 2) {
            properties.setProperty(options[i], options[i + 1]);
        }
        return DriverManager.getConnection(args[0], properties);
    }

    static void types(Connection connection) throws SQLException {
        OffsetDateTime when = OffsetDateTime.parse("2026-02-28T12:30:01.0005Z");
        UUID uuid = UUID.fromString("5b9c5dd5-24a5-4b3e-9d1f-0f6f3a1f9d51");
        BigDecimal decimal = new BigDecimal("12345678901234567890.5");
        byte[] bytes = {0, 1, -1};
        // In simple mode this driver leaves the "?" of a byte[] in the text.
        boolean simple = connection.unwrap(PGConnection.class).getPreferQueryMode() == PreferQueryMode.SIMPLE;
        try (PreparedStatement select = connection.prepareStatement("SELECT ?::int4, ?::int8, ?::text,"
                + " ?::bool, ?::float8, ?::numeric, ?::timestamptz, ?::uuid, ?::int4[], ?::varchar, "
                + (simple ? "'\\x0001ff'::bytea" : "?::bytea"))) {
            for (int i = 0; i < 8; i++) { // past prepareThreshold
                select.setInt(1, -42);
                select.setLong(2, 1L << 40);
                select.setString(3, "grüße, it's \\ \"quoted\" 表");
                select.setBoolean(4, true);
                select.setDouble(5, 0.1);
                select.setBigDecimal(6, decimal);
                select.setObject(7, when);
                select.setObject(8, uuid);
                select.setArray(9, connection.createArrayOf("int4", new Integer[] {1, 2, 3}));
                select.setNull(10, Types.VARCHAR);
                if (!simple) {
                    select.setBytes(11, bytes);
                }
                try (ResultSet row = select.executeQuery()) {
                    Driver.check(row.next() && row.getInt(1) == -42 && row.getLong(2) == 1L << 40
                        && row.getString(3).equals("grüße, it's \\ \"quoted\" 表") && row.getBoolean(4)
                        && row.getDouble(5) == 0.1 && row.getBigDecimal(6).equals(decimal), "scalars");
                    Driver.check(row.getObject(7, OffsetDateTime.class).isEqual(when)
                        && Arrays.equals(row.getBytes(11), bytes) && row.getObject(8).equals(uuid)
                        && Arrays.equals((Integer[]) row.getArray(9).getArray(), new Integer[] {1, 2, 3})
                        && row.getString(10) == null, "time, bytes, uuid, array, NULL");
                }
            }
        }
    }

    static void checkKeys(Statement statement) throws SQLException {
        try (ResultSet keys = statement.getGeneratedKeys()) {
            int count = 0;
            for (; keys.next(); count++) {
                Driver.check(KEYS.get(keys.getString("collection_id")) == keys.getInt("partition_key"),
                    "the key that the driver returns");
            }
            Driver.check(count > 0, "generated keys");
        }
    }

    static void inserts(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate(INSERT + "VALUES ('a', 4711, 1, 'x'), ('b', NULL, 2, 'x')",
                Statement.RETURN_GENERATED_KEYS); // the driver appends RETURNING *
            checkKeys(statement);
            wrote(2);
        }
        try (PreparedStatement one = connection.prepareStatement(INSERT + "VALUES (?, ?, ?, ?)",
                new String[] {"collection_id", "partition_key"})) {
            for (int i = 0; i < 8; i++) {
                fill(one, i);
                one.executeUpdate();
                checkKeys(one);
                wrote(1);
            }
        }
        try (PreparedStatement batch = connection.prepareStatement(INSERT + "VALUES (?, ?, ?, ?)")) {
            for (int i = 0; i < 300; i++) {
                fill(batch, i);
                batch.addBatch();
            }
            Driver.check(batch.executeBatch().length == 300, "300 results");
            wrote(300);
        }
    }

    static void fill(PreparedStatement insert, int n) throws SQLException {
        insert.setString(1, n % 2 == 0 ? "a" : "b");
        if (n == 3) {
            insert.setNull(2, Types.INTEGER);
        } else {
            insert.setInt(2, 4711 + n);
        }
        insert.setInt(3, n);
        insert.setString(4, "row " + n);
    }

    static void wrote(int count) {
        rows += count;
        supplied += count;
    }

    static void rollsBack(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement();
                PreparedStatement insert = connection.prepareStatement(INSERT + "VALUES (?, ?, ?, ?)")) {
            fill(insert, 1);
            insert.executeUpdate();
            supplied++;
            Driver.check(Driver.stateOf(() -> statement.execute("SELECT 1/0")).equals("22012"), "22012");
            Driver.check(Driver.stateOf(() -> statement.execute("SELECT 1")).equals("25P02"), "25P02");
        }
        connection.rollback();
        connection.setAutoCommit(true);
    }

    static void cancels(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1); // through a connection of its own
            Driver.check(Driver.stateOf(() -> statement.execute("SELECT pg_sleep(60)")).equals("57014"), "57014");
        }
    }

    static void readsMuch(Connection connection) throws Exception {
        connection.setAutoCommit(false);
        for (int fetch : new int[] {0, 500}) {
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(fetch);
                int length = 0;
                try (ResultSet result = statement.executeQuery(LARGE)) {
                    while (result.next()) {
                        length += result.getString(2).length();
                    }
                }
                Driver.check(length == 3000000, "a large result");
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    static void copies(PGConnection connection) throws Exception {
        StringBuilder lines = new StringBuilder();
        for (int i = 0; i < 1000; i++) {
            lines.append("b\t").append(i).append("\tcopied\n");
        }
        CopyManager copy = connection.getCopyAPI();
        Driver.check(copy.copyIn("COPY chunks (collection_id, chunk_index, content) FROM STDIN",
            new StringReader(lines.toString())) == 1000, "COPY in");
        rows += 1000;
        ByteArrayOutputStream out = new ByteArrayOutputStream();
        Driver.check(copy.copyOut("COPY (" + LARGE + ") TO STDOUT", out) == 3000 && out.size() > 3000000,
            "COPY out");
    }

    static void hears(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("LISTEN news");
            statement.execute("NOTIFY news, 'extra'");
            PGNotification[] news = connection.unwrap(PGConnection.class).getNotifications(5000);
            Driver.check(news != null && news[0].getParameter().equals("extra"), "the notification");
        }
    }

    public static void main(String[] args) throws Exception {
        String[][] ways = {
            {"preferQueryMode", "simple"},
            {"preferQueryMode", "extended"}, // named on the server from the fifth use on, then binary
            {"preferQueryMode", "extendedCacheEverything"},
            {"prepareThreshold", "-1", "binaryTransfer", "true"}, // binary from the first use
            {"binaryTransfer", "false"},
            {"reWriteBatchedInserts", "true"},
        };
        for (String[] way : ways) {
            try (Connection connection = connect(args, way)) {
                types(connection);
                inserts(connection);
                rollsBack(connection);
                readsMuch(connection);
            }
        }
        try (Connection connection = connect(args)) {
            cancels(connection);
            copies(connection.unwrap(PGConnection.class));
            hears(connection);
        }
        System.out.printf("{\"rows\": %d, \"supplied\": %d}%n", rows, supplied);
    }
}
