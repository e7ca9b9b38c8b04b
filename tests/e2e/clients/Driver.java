// The JDBC driver through the proxy. Arguments: a scenario's name, the URL, user, password; prints
// one line "key=value key=value", or fails with the driver's exception.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public final class Driver {
    private static final String INSERT =
        "INSERT INTO chunks (collection_id, partition_key, chunk_index, content) ";

    interface Action {
        void run() throws Exception;
    }

    static void check(boolean condition, String what) {
        if (!condition) {
            throw new AssertionError(what);
        }
    }

    static String stateOf(Action action) throws Exception {
        try {
            action.run();
            return "ok";
        } catch (BatchUpdateException batch) {
            SQLException next = batch.getNextException();
            return (next != null ? next : batch).getSQLState();
        } catch (SQLException error) {
            return error.getSQLState();
        }
    }

    static Connection connect(String[] args, String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", args[2]);
        properties.setProperty("password", args[3]);
        for (int i = 0; i < options.length; i += 2) {
            properties.setProperty(options[i], options[i + 1]);
        }
        return DriverManager.getConnection(args[1], properties);
    }

    static void statements(Connection connection) throws Exception {
        try (Statement statement = connection.createStatement()) {
            check(statement.execute("SELECT 1; SELECT 2"), "a result");
            check(statement.getMoreResults(), "a second result");
            statement.execute("CREATE TEMP TABLE t(a int, b text)");
            statement.execute("DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$");
            check(statement.getWarnings().getMessage().equals("hear, hear"), "the notice");
        }
        // More than prepareThreshold times: the driver goes from unnamed to named statements.
        try (PreparedStatement insert = connection.prepareStatement("INSERT INTO t VALUES (?, ?)")) {
            for (int i = 0; i < 12; i++) {
                insert.setInt(1, i);
                insert.setString(2, "row " + i);
                check(insert.executeUpdate() == 1, "one row");
            }
            for (int i = 0; i < 300; i++) {
                insert.setInt(1, 100 + i);
                insert.setNull(2, Types.VARCHAR);
                insert.addBatch();
            }
            check(insert.executeBatch().length == 300, "300 rows");
        }
        // A cursor: portals with a row limit.
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(10);
            int rows = 0;
            try (ResultSet result = statement.executeQuery("SELECT * FROM t")) {
                while (result.next()) {
                    rows++;
                }
            }
            check(rows == 312, "rows through the cursor: " + rows);
            check(stateOf(() -> statement.execute("SELECT 1/0")).equals("22012"), "22012");
            check(stateOf(() -> statement.execute("SELECT 1")).equals("25P02"), "25P02");
        }
        connection.rollback();
        connection.setAutoCommit(true);
    }

    static void protocolExtras(Connection connection) throws Exception {
        PGConnection pg = connection.unwrap(PGConnection.class);
        try (Statement statement = connection.createStatement()) {
            statement.execute("CREATE TEMP TABLE copied(a int, b text)");
            CopyManager copy = pg.getCopyAPI();
            check(copy.copyIn("COPY copied FROM STDIN", new StringReader("1\tx\n2\ty\n")) == 2, "COPY in");
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            check(copy.copyOut("COPY copied TO STDOUT (FORMAT csv)", out) == 2, "COPY out");
            check(out.toString().equals("1,x\n2,y\n"), "COPY out's data");

            statement.execute("LISTEN news");
            statement.execute("NOTIFY news, 'extra'");
            PGNotification[] news = pg.getNotifications(2000);
            check(news != null && news[0].getParameter().equals("extra"), "the notification");

            statement.setQueryTimeout(1); // cancels through a connection of its own
            check(stateOf(() -> statement.execute("SELECT pg_sleep(30)")).equals("57014"), "57014");
            statement.setQueryTimeout(0);
        }
        connection.setAutoCommit(false); // large objects are function calls
        LargeObjectManager objects = pg.getLargeObjectAPI();
        long oid = objects.createLO();
        try (LargeObject object = objects.open(oid)) {
            object.write(new byte[100000]);
            object.seek(0);
            check(object.read(200000).length == 100000, "the large object");
        }
        objects.delete(oid);
        connection.commit();
        connection.setAutoCommit(true);
    }

    static String relay(String[] args) throws Exception {
        for (String mode : new String[] {"simple", "extended", "extendedForPrepared", "extendedCacheEverything"}) {
            try (Connection connection = connect(args, "preferQueryMode", mode)) {
                statements(connection);
            }
        }
        try (Connection connection = connect(args)) {
            protocolExtras(connection);
        }
        return "ok=yes";
    }

    static void readKeys(Statement statement, List<Integer> keys) throws SQLException {
        try (ResultSet result = statement.getGeneratedKeys()) {
            while (result.next()) {
                keys.add(result.getInt("partition_key"));
            }
        }
    }

    /** Rows that supply the key in every way in which this driver can. */
    static String insert(String[] args) throws Exception {
        List<Integer> keys = new ArrayList<>();
        try (Connection connection = connect(args, "prepareThreshold", "2")) {
            try (Statement statement = connection.createStatement()) {
                statement.executeUpdate(INSERT + "VALUES ('a', 4711, 1, 'jdbc literal')",
                    Statement.RETURN_GENERATED_KEYS); // the driver appends RETURNING *
                readKeys(statement, keys);
            }
            try (PreparedStatement one = connection.prepareStatement(INSERT + "VALUES (?, ?, ?, ?)",
                    new String[] {"id", "partition_key"})) {
                for (int i = 2; i < 7; i++) {
                    one.setString(1, i % 2 == 0 ? "b" : "a");
                    if (i == 3) {
                        one.setNull(2, Types.INTEGER);
                    } else {
                        one.setInt(2, 4711);
                    }
                    one.setInt(3, i);
                    one.setString(4, "jdbc param");
                    one.executeUpdate();
                    readKeys(one, keys);
                }
            }
        }
        // Without and with the driver's own rewriting of a batch into multi-row INSERTs.
        for (String rewrite : new String[] {"false", "true"}) {
            try (Connection connection = connect(args, "reWriteBatchedInserts", rewrite);
                    PreparedStatement batch = connection.prepareStatement(INSERT + "VALUES (?, ?, ?, ?)")) {
                for (int i = 0; i < 20; i++) {
                    batch.setString(1, "a");
                    batch.setInt(2, i);
                    batch.setInt(3, 100 + i);
                    batch.setString(4, "jdbc batch");
                    batch.addBatch();
                }
                batch.executeBatch();
            }
        }
        return "keys=" + keys.toString().replace(" ", "");
    }

    static String refused(String[] args) throws Exception {
        List<String> codes = new ArrayList<>();
        try (Connection connection = connect(args);
                Statement statement = connection.createStatement();
                PreparedStatement prepared = connection.prepareStatement(INSERT + "VALUES ('a', ?, 1, 'x')")) {
            codes.add(stateOf(() -> statement.execute(INSERT + "VALUES ('a', 1, 1, 'x')")));
            prepared.setInt(1, 1);
            codes.add(stateOf(prepared::executeUpdate));
            prepared.addBatch();
            prepared.addBatch();
            codes.add(stateOf(prepared::executeBatch));
            connection.setAutoCommit(false);
            codes.add(stateOf(prepared::executeUpdate));
            codes.add(stateOf(() -> statement.execute("SELECT 1")));
            connection.rollback();
            codes.add(stateOf(() -> statement.execute("SELECT 1")));
            connection.rollback();
        }
        return "codes=" + String.join(",", codes);
    }

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
        case "relay": System.out.println(relay(args)); break;
        case "insert": System.out.println(insert(args)); break;
        case "refused": System.out.println(refused(args)); break;
        default: throw new IllegalArgumentException(args[0]);
        }
    }
}
