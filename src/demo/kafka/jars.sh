#!/usr/bin/env bash
# Makes jars.tsv beside it: what Maven resolves for each group, less what the group does not need to
# run. Needs mvn and a way to Maven Central; nothing of the project runs this by itself.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")"
KAFKA=4.1.2
DEBEZIUM=3.6.3.Final
DEBEZIUM_OTHERS=3.5.0.Final # the newest that both the MariaDB connector and the sink have

# What the worker has already: a second Jackson beside its own is refused by Hibernate, and
# Debezium's own archives have none either. And what only other databases need.
WORKERS='^(org/apache/kafka|org/slf4j|jakarta/ws|at/yawk/lz4|org/lz4|org/xerial|com/github/luben|com/fasterxml/jackson)/'
DATABASES='^(com/oracle|com/microsoft|com/mysql|org/mariadb)/'
# Compile-time helpers, and the parts of commons-validator that Kafka does not call.
HELPERS='^(org/scala-lang/scala-reflect|org/jspecify|org/checkerframework)/'
VALIDATOR='^(commons-beanutils|commons-collections|commons-digester|commons-logging)/'

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# group GROUP LEFT_OUT COORDINATES…
group() {
    local group=$1 left_out=$2 coordinate g a v
    shift 2
    {
        echo '<project><modelVersion>4.0.0</modelVersion>'
        echo '<groupId>jars</groupId><artifactId>jars</artifactId><version>1</version><dependencies>'
        for coordinate in "$@"; do
            IFS=: read -r g a v <<<"$coordinate"
            echo "<dependency><groupId>$g</groupId><artifactId>$a</artifactId><version>$v</version></dependency>"
        done
        echo '</dependencies></project>'
    } >"$work/pom.xml"
    mvn -q -B -f "$work/pom.xml" dependency:copy-dependencies -DincludeScope=runtime \
        -Dmdep.useRepositoryLayout=true "-DoutputDirectory=$work/$group" >&2
    (cd "$work/$group" && find . -name '*.jar' | sed 's|^\./||' | LC_ALL=C sort |
        grep -v -E "$left_out|$HELPERS" | xargs sha256sum) |
        while read -r digest path; do printf '%s\t%s\t%s\n' "$group" "$digest" "$path"; done
}

{
    cat <<'HEAD'
# Jars of Maven Central that the Kafka environment runs: group, SHA-256, path in the repository.
# Made by jars.sh; a newer version is a change there and another run of it.
HEAD
    group broker "$VALIDATOR" "org.apache.kafka:kafka_2.13:$KAFKA" org.slf4j:slf4j-simple:1.7.36
    group connect '^$' "org.apache.kafka:connect-runtime:$KAFKA" \
        "org.apache.kafka:connect-json:$KAFKA" "org.apache.kafka:connect-transforms:$KAFKA" \
        org.slf4j:slf4j-simple:1.7.36
    group postgres "$WORKERS" "io.debezium:debezium-connector-postgres:$DEBEZIUM"
    group mariadb "$WORKERS" "io.debezium:debezium-connector-mariadb:$DEBEZIUM_OTHERS"
    group jdbc "$WORKERS|$DATABASES" "io.debezium:debezium-connector-jdbc:$DEBEZIUM_OTHERS"
} >"$work/jars.tsv"
mv "$work/jars.tsv" jars.tsv
