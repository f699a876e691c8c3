# The Debian package in a clean system, from its installation to its purge.
unit=/lib/systemd/system/why502.service
before=$(find / -xdev -not -path '/trial/*' | sort)

dpkg --install /trial/made/why502_*_amd64.deb > /tmp/install.log 2>&1 || { cat /tmp/install.log; exit 1; }
test "$(why502 --version)" = "why502 $VERSION"
test -f $unit -o -f /usr$unit
for file in /usr/share/man/man1/why502-capture.1.gz /usr/share/bash-completion/completions/why502 \
    /usr/share/doc/why502/copyright /usr/share/doc/why502/runbooks/keepalive_race.md \
    /usr/share/why502/rules.yml /usr/share/why502/grafana/overview.json /etc/why502/why502.toml; do
    test -s "$file" || { echo "$file is not there"; exit 1; }
done
test -L /etc/systemd/system/multi-user.target.wants/why502.service
bash -c 'source /usr/share/bash-completion/completions/why502; complete -p why502' > /dev/null

# Started as the unit does: a user of no rights, these capabilities, no way to more.
capabilities=$(sed -n 's/^AmbientCapabilities=//p' $unit | tr A-Z a-z | sed 's/cap_/+/g; s/ /,/g')
install -d -o nobody -g nogroup -m 750 /var/lib/why502
as_unit=(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs
    --bounding-set="-all,$capabilities" --inh-caps="-all,$capabilities" --ambient-caps="-all,$capabilities")
"${as_unit[@]}" why502 check --json > /tmp/as-unit
why502 check --json > /tmp/as-root
# Packets in other network namespaces take CAP_SYS_ADMIN, which the unit says that it does not ask for.
lacking=$(grep -F '"visible":false' /tmp/as-unit | grep -vF '"fact":"namespaces"' | grep -vxFf /tmp/as-root || true)
test -z "$lacking" || { echo "the unit's user does not see what root sees: $lacking"; exit 1; }
WHY502_LISTEN=127.0.0.1:19502 "${as_unit[@]}" $(sed -n 's/^ExecStart=//p' $unit) > /tmp/lines 2> /tmp/messages &
service=$!
ready() {
    { exec 3<> /dev/tcp/127.0.0.1/19502; } 2> /dev/null || return 1
    printf 'GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3
    head -n 1 <&3 | grep -q ' 200 '
}
tries=0
until ready; do
    tries=$((tries + 1))
    if test $tries -gt 150 || ! kill -0 $service; then
        cat /tmp/messages
        exit 1
    fi
    read -rt 0.1 <> <(:) || true
done
kill -TERM $service
wait $service
grep -q '"type":"summary"' /tmp/lines
test -s /var/lib/why502/history.db
why502 report --since 1h --json > /dev/null
echo "dist: as a service it saw all that root sees but packets in other network namespaces: $(grep -c '"visible":true' /tmp/as-unit) facts"

# An upgrade keeps what a person has set.
echo 'privacy = "minimal"' >> /etc/why502/why502.toml
dpkg --install /trial/aside/why502_*_amd64.deb > /tmp/upgrade.log 2>&1 || { cat /tmp/upgrade.log; exit 1; }
test "$(dpkg-query --show --showformat '${Version}' why502)" = "$VERSION-2"
grep -q minimal /etc/why502/why502.toml

dpkg --remove why502 > /tmp/remove.log 2>&1 || { cat /tmp/remove.log; exit 1; }
test ! -e /usr/bin/why502
test -e /etc/why502/why502.toml -a -e /var/lib/why502/history.db
dpkg --purge why502 > /tmp/purge.log 2>&1 || { cat /tmp/purge.log; exit 1; }
after=$(find / -xdev -not -path '/trial/*' -not -path '/tmp/*' -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' | sort)
left=$(comm -13 <(echo "$before") <(echo "$after"))
test -z "$left" || { echo "left behind: $left"; exit 1; }
