# DBD::Pg on the drivers' tour: server-side prepared statements, and values put into the text.
use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg qw(:pg_types :async);
use JSON::PP;

my $settings = decode_json($ARGV[0]);
my %KEYS = (a => 57, b => -88);    # what the expression gives
my $INSERT = 'INSERT INTO chunks (collection_id, partition_key, chunk_index, content)';
my $LARGE = q{SELECT n, repeat('x', 1000) FROM generate_series(1, 3000) n};
my %tally = (rows => 0, supplied => 0);

sub wrote {
    my ($count, %how) = (@_);
    $tally{rows} += $count unless $how{rolled_back};
    $tally{supplied} += $count unless $how{without_key};
}

sub check {
    my ($right, $what) = @_;
    die "wrong: $what\n" unless $right;
}

sub quoted {
    my ($value) = @_;
    $value =~ s/([\\'])/\\$1/g;
    return "'$value'";
}

sub connect_server {
    my %params = (
        host => $settings->{host}, port => $settings->{port}, dbname => $settings->{database},
        application_name => quoted($settings->{application}),
        sslmode => $settings->{tls} ? 'verify-full' : 'disable',
    );
    $params{sslrootcert} = $settings->{ca} if $settings->{tls};
    my $dsn = join ';', map { "$_=$params{$_}" } keys %params;
    return DBI->connect("dbi:Pg:$dsn", $settings->{user}, $settings->{password},
        { RaiseError => 1, PrintError => 0, PrintWarn => 0, AutoCommit => 1 });
}

sub state_of {
    my ($dbh, $action) = @_;
    return eval { $action->(); 1 } ? 'ok' : $dbh->state;
}

sub types {
    my ($dbh) = @_;
    my @cast = qw(int4 int8 text bool float8 numeric timestamptz uuid varchar int4[] bytea);
    my @value = (-42, '1099511627776', qq{grüße, it's \\ "quoted" 表}, 1, 0.1, '12345678901234567890.5',
        '2026-02-28 12:30:01+00', '5b9c5dd5-24a5-4b3e-9d1f-0f6f3a1f9d51', undef, [1, 2, 3],
        pack('C*', 0 .. 255));
    my $select = $dbh->prepare('SELECT ' . join ', ', map { "?::$_" } @cast);
    for (1 .. 3) {
        for my $n (0 .. $#cast) {
            $select->bind_param($n + 1, $value[$n], $cast[$n] eq 'bytea' ? { pg_type => PG_BYTEA } : {});
        }
        $select->execute;
        my @row = $select->fetchrow_array;
        for my $n (0 .. $#cast) {
            my ($got, $sent) = map { ref $_ ? "@$_" : $_ // 'NULL' } $row[$n], $value[$n];
            check($got eq $sent, "$cast[$n]: $got");
        }
    }
}

sub is_right {
    my ($rows) = @_;
    return !grep { $KEYS{ $_->[0] } != $_->[1] } @$rows;
}

sub inserts {
    my ($dbh) = @_;
    my $one = $dbh->prepare("$INSERT VALUES (?, ?, ?, ?) RETURNING collection_id, partition_key");
    for my $row (['a', 4711, 1, 'one'], ['b', undef, 2, 'one'], ['a', 5, 3, 'one']) {
        $one->execute(@$row);
        check(is_right($one->fetchall_arrayref), 'the key that RETURNING gives');
        wrote(1);
    }
    check($dbh->do("$INSERT VALUES ('a', 1, 1, 'literal'), ('b', 2, 2, 'literal')") == 2, '2 rows');
    wrote(2);
    my $many = $dbh->prepare("$INSERT VALUES (?, ?, ?, ?)");
    my @index = 1 .. 200;
    check($many->execute_array({}, 'a', \@index, \@index, 'many') == 200, '200 rows');
    wrote(200);
    $dbh->do('COPY chunks (collection_id, chunk_index, content) FROM STDIN');
    $dbh->pg_putcopydata("b\t$_\tcopied $_\n") for 1 .. 1000;
    $dbh->pg_putcopyend;
    wrote(1000, without_key => 1);
}

sub rolls_back {
    my ($dbh) = @_;
    $dbh->begin_work;
    $dbh->do("$INSERT VALUES (?, 1, 1, 'rolled back')", undef, 'a');
    wrote(1, rolled_back => 1);
    check(state_of($dbh, sub { $dbh->selectall_arrayref('SELECT 1/?::int', undef, 0) }) eq '22012', '22012');
    check(state_of($dbh, sub { $dbh->do('SELECT 1') }) eq '25P02', '25P02');
    $dbh->rollback;
}

sub cancels {
    my ($dbh) = @_;
    $dbh->do('SELECT pg_sleep(60)', { pg_async => PG_ASYNC });
    select undef, undef, undef, 0.5;
    check(!$dbh->pg_ready, 'the statement runs');
    check($dbh->pg_cancel, 'it was cancelled');
    check($dbh->state eq '57014', 'its state ' . $dbh->state);
    check($dbh->selectrow_array('SELECT 1') == 1, 'the session goes on');
}

sub reads_much {
    my ($dbh) = @_;
    my $length = 0;
    $length += length $_->[1] for @{ $dbh->selectall_arrayref($LARGE) };
    check($length == 3_000_000, "$length bytes");
    $dbh->do("COPY ($LARGE) TO STDOUT");
    my ($lines, $line) = (0);
    $lines++ while $dbh->pg_getcopydata($line) >= 0;
    check($lines == 3000, "$lines lines");
}

sub hears {
    my ($dbh) = @_;
    $dbh->do('LISTEN news');
    $dbh->do(q{NOTIFY news, 'extra'});
    my $heard = $dbh->pg_notifies;
    check($heard && $heard->[2] eq 'extra', 'the notification');
    my @notices;
    local $SIG{__WARN__} = sub { push @notices, @_ };
    $dbh->{PrintWarn} = 1;
    $dbh->do(q{DO $$ BEGIN RAISE NOTICE 'hear, hear'; END $$});
    check("@notices" =~ /hear, hear/, 'the notice');
}

for my $prepared (1, 0) {
    my $dbh = connect_server();
    $dbh->{pg_server_prepare} = $prepared;
    types($dbh);
    inserts($dbh);
    rolls_back($dbh);
    cancels($dbh);
    reads_much($dbh);
    hears($dbh);
    $dbh->disconnect;
}
print encode_json(\%tally), "\n";
