#!/bin/sh
# Gives each role of embedstream what it needs on a shared or public cluster, and nothing else.
#
#   acls.sh BOOTSTRAP_SERVER [options of kafka-acls.sh, such as --command-config admin.properties]
#
# Run it again after a change; `kafka-acls.sh --remove` with the same arguments takes a right away. From the
# environment, with these defaults: the users, topics and group of the job. For a replay under another model,
# run it once more with EMBEDDINGS=OUTPUT DEAD_LETTERS=OUTPUT.dead-letters GROUP=embedstream-replay-OUTPUT, and
# let the operator make those topics.
set -eu
: "${PRODUCER:=embedstream-producer}" "${CONSUMER:=embedstream-consumer}"
: "${READER:=embedstream-reader}" "${OPERATOR:=embedstream-operator}"
: "${DOCUMENTS:=documents}" "${EMBEDDINGS:=embeddings}" "${DEAD_LETTERS:=dead-letters}"
: "${GROUP:=embedstream}" "${KAFKA_ACLS:=kafka-acls.sh}"
[ $# -ge 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
server=$1
shift
options=$*

# allow USER RESOURCE NAME OPERATION...: Read and Write imply Describe.
allow() {
  user=$1 resource=$2 name=$3
  shift 3
  for operation in "$@"; do
    # shellcheck disable=SC2086 # options are words
    $KAFKA_ACLS --bootstrap-server "$server" $options --add --force --allow-principal "User:$user" \
      --operation "$operation" $resource "$name"
  done
}

# produce: reads too, since a run after a crash looks at what has arrived.
allow "$PRODUCER" --topic "$DOCUMENTS" Read Write DescribeConfigs
allow "$PRODUCER" --group "embedstream-reader" Read

# consume: reads the output as well, to see whether an offset was forgotten, and how large a record may be.
allow "$CONSUMER" --topic "$DOCUMENTS" Read
allow "$CONSUMER" --topic "$EMBEDDINGS" Read Write DescribeConfigs
allow "$CONSUMER" --topic "$DEAD_LETTERS" Read Write DescribeConfigs
allow "$CONSUMER" "--resource-pattern-type prefixed --group" "$GROUP" Read
allow "$CONSUMER" "--resource-pattern-type prefixed --transactional-id" "embedstream-$GROUP-" Write
# What it costs, where it is told its price.
allow "$CONSUMER" --topic embedstream.spending Create Read Write
allow "$CONSUMER" --group "embedstream-spending" Read

# verify, export, search, dlq list and show, status.
for topic in "$DOCUMENTS" "$EMBEDDINGS" "$DEAD_LETTERS" embedstream.retries embedstream.aliases; do
  allow "$READER" --topic "$topic" Read DescribeConfigs
done
allow "$READER" --topic embedstream.spending Read
allow "$READER" --group "embedstream-spending" Read
allow "$READER" --group "$GROUP" Read
allow "$READER" --group "embedstream-reader" Read

# topics create and check, dlq retry, cutover.
for topic in "$DOCUMENTS" "$EMBEDDINGS" "$DEAD_LETTERS" embedstream.retries embedstream.aliases; do
  allow "$OPERATOR" --topic "$topic" Create Read DescribeConfigs
done
allow "$OPERATOR" --topic "$DOCUMENTS" Write
allow "$OPERATOR" --topic embedstream.retries Write
allow "$OPERATOR" --topic embedstream.aliases Write
allow "$OPERATOR" --group "$GROUP" Read
allow "$OPERATOR" --group "embedstream-reader" Read
allow "$OPERATOR" --transactional-id "embedstream-retry" Write
