-- What inserting a row into chunks costs the server, in microseconds: a statement for each row, and one
-- statement for all. What it inserts is taken back. Run by deploy/quickstart before and after the cutover.
CREATE FUNCTION pg_temp.insert_cost(OUT one_by_one numeric, OUT in_bulk numeric) LANGUAGE plpgsql AS $$
DECLARE
    rows    constant integer := 4000;
    started timestamptz;
    took    double precision;
BEGIN
    FOR round IN 1..5 LOOP
        BEGIN
            started := clock_timestamp();
            FOR i IN 1..rows LOOP
                INSERT INTO chunks (collection_id, document_id, chunk_index, content)
                VALUES ('cost-' || i, 'cost', i, repeat('x', 400));
            END LOOP;
            took := extract(epoch FROM clock_timestamp() - started) * 1e6 / rows;
            one_by_one := least(one_by_one, round(took::numeric, 1));

            started := clock_timestamp();
            INSERT INTO chunks (collection_id, document_id, chunk_index, content)
            SELECT 'cost-' || i, 'cost', i, repeat('x', 400) FROM generate_series(1, rows) i;
            took := extract(epoch FROM clock_timestamp() - started) * 1e6 / rows;
            in_bulk := least(in_bulk, round(took::numeric, 1));
            RAISE EXCEPTION 'taken back' USING ERRCODE = 'P0099';
        EXCEPTION WHEN SQLSTATE 'P0099' THEN
            NULL;
        END;
    END LOOP;
END $$;

SELECT one_by_one, in_bulk FROM pg_temp.insert_cost();
