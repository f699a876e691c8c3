# The tarball in a clean system: whole, and its program starts and says what it says elsewhere.
cd /trial/made
sha256sum --check --quiet SHA256SUMS
cd /tmp
tar -xzf "/trial/made/$NAME.tar.gz"
test "$("$NAME/why502" --version)" = "why502 $VERSION"
test -s "$NAME/man/why502-run.1"
test -s "$NAME/docs/runbooks/keepalive_race.md"
test -s "$NAME/dashboards/grafana/overview.json"
"$NAME/why502" explain --json "/trial/captures/$CAPTURE"
set +e
"$NAME/why502" check --json
echo "check $?"
