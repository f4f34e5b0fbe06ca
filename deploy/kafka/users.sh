#!/bin/sh
# Makes or changes the users of the four roles, each with a password of its own from FOLDER/USER (made if missing).
#
#   users.sh FOLDER        # on the broker's machine: its local listener is the administrator's
#
# The passwords are read by Kafka's tool from a file that only you may read, never from its command line.
set -eu
: "${KAFKA_CONFIGS:=kafka-configs.sh}" "${BOOTSTRAP:=127.0.0.1:9092}"
: "${USERS:=embedstream-producer embedstream-consumer embedstream-reader embedstream-operator}"
[ $# -eq 1 ] || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
folder=$1
umask 077
mkdir -p "$folder"
for user in $USERS; do
  [ -s "$folder/$user" ] || head -c 24 /dev/urandom | base64 | tr '+/' '-_' >"$folder/$user"
  properties=$(mktemp)
  trap 'rm -f "$properties"' EXIT
  printf 'SCRAM-SHA-512=iterations=8192,password=%s\n' "$(cat "$folder/$user")" >"$properties"
  $KAFKA_CONFIGS --bootstrap-server "$BOOTSTRAP" --alter --entity-type users --entity-name "$user" \
    --add-config-file "$properties"
  rm -f "$properties"
done
