// The JDBC driver's prepared statements while their table becomes another one. Arguments: the URL, user, password.
// Writes for every line that it reads, and says how many rows.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;

public final class Outlives {
    private static final String INSERT = "INSERT INTO chunks (collection_id, chunk_index, content) VALUES (?, ?, ?)";

    static void bind(PreparedStatement insert, int row) throws SQLException {
        insert.setString(1, "collection " + row);
        insert.setInt(2, row);
        insert.setString(3, "x");
    }

    /** One row at a time, then a batch, then both in a transaction, then keys that come back. */
    static int write(Connection connection, PreparedStatement insert, PreparedStatement returning)
            throws SQLException {
        int rows = 0;
        for (int turn = 0; turn < 4; turn++) {
            connection.setAutoCommit(turn < 2);
            for (int i = 0; i < 4; i++, rows++) {
                bind(insert, rows);
                if (turn % 2 == 0) {
                    insert.executeUpdate();
                } else {
                    insert.addBatch();
                }
            }
            if (turn % 2 != 0) {
                insert.executeBatch();
            }
            if (turn >= 2) {
                connection.commit();
            }
        }
        connection.setAutoCommit(true);
        for (int i = 0; i < 3; i++, rows++) {
            bind(returning, rows);
            try (ResultSet key = returning.executeQuery()) {
                key.next();
                key.getInt(1);
            }
        }
        return rows;
    }

    public static void main(String[] args) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", args[1]);
        properties.setProperty("password", args[2]);
        properties.setProperty("prepareThreshold", "2");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        try (Connection connection = DriverManager.getConnection(args[0], properties);
             PreparedStatement insert = connection.prepareStatement(INSERT);
             PreparedStatement returning = connection.prepareStatement(INSERT + " RETURNING partition_key")) {
            while (lines.readLine() != null) {
                System.out.println(write(connection, insert, returning));
                System.out.flush();
            }
        }
    }
}
