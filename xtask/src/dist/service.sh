# The package under systemd, in a machine of its own: installed, run as a service, killed, upgraded,
# removed, purged.
set -eEu
unit=/lib/systemd/system/why502.service
failed() {
    echo "service: line $1 failed: $2"
    systemctl --no-pager --full status why502 || true
    journalctl --no-pager --output=cat --unit=why502 --lines=40 || true
}
trap 'failed $LINENO "$BASH_COMMAND"' ERR
pid() { systemctl show --property=MainPID --value why502; }
ready() {
    curl --silent --fail --retry 60 --retry-delay 1 --retry-connrefused \
        --output /dev/null http://127.0.0.1:9502/readyz
}
# The first line of the service's that has all of these in it.
said() {
    local pattern
    pattern=$(printf '%s.*' "$@")
    timeout 60 grep --max-count=1 -- "$pattern" \
        < <(trap - ERR; journalctl --unit=why502 --output=cat --lines=all --follow)
}
# Until that is so, or a minute is over.
await() {
    local tries=0
    until "$@"; do
        tries=$((tries + 1))
        test $tries -lt 600 || return 1
        read -rt 0.1 <> <(:) || true
    done
}
seen() { sed -n 's/^{"fact":"\([^"]*\)","visible":true.*/\1/p' | sort; }
watched() {
    curl --silent --fail http://127.0.0.1:9502/metrics | grep -q '^why502_proxies_watched{proxy="nginx"} [1-9]'
}
restarted() { test "$(systemctl show --property=NRestarts --value why502)" = 1; }

dpkg --install /trial/why502_*-1_amd64.deb > /dev/null
test "$(systemctl is-enabled why502)" = enabled
ready

# What holds it: no user of this system, no way to more rights than the unit names, no other system calls.
user=$(sed -n 's/^Uid:\t\([0-9]*\).*/\1/p' "/proc/$(pid)/status")
test "$user" -ge 61184 -a "$user" -le 65519
grep -q '^NoNewPrivs:	1$' "/proc/$(pid)/status"
grep -q '^Seccomp:	2$' "/proc/$(pid)/status"
bits=0
for capability in $(sed -n 's/^CapabilityBoundingSet=//p' $unit); do
    case $capability in
        CAP_DAC_READ_SEARCH) bit=2 ;;
        CAP_NET_RAW) bit=13 ;;
        CAP_SYS_PTRACE) bit=19 ;;
        CAP_PERFMON) bit=38 ;;
        CAP_BPF) bit=39 ;;
    esac
    bits=$((bits | 1 << bit))
done
grep -q "^CapBnd:	$(printf %016x $bits)\$" "/proc/$(pid)/status"
# Packets in other network namespaces take CAP_SYS_ADMIN, which the unit says that it does not ask for.
held=()
while read -r property; do
    held+=("--property=$property")
done < <(sed -n '/^\[Service\]/,/^\[Install\]/p' $unit | grep -E '^[A-Z][A-Za-z]+=' | grep -vE '^(Type|Exec|Restart|State)')
systemd-run --quiet --pipe --wait "${held[@]}" why502 check --json > /tmp/service || true
why502 check --json > /tmp/root || true
lacking=$(comm -23 <(seen < /tmp/root) <(seen < /tmp/service) | grep -vx namespaces || true)
test -z "$lacking" || { grep -F "$lacking" /tmp/service; false; }
echo "service: running as user $user with seccomp; $(seen < /tmp/service | wc -l) facts seen, all that root sees but packets in other network namespaces"
echo "service: systemd-analyze security: $(systemd-analyze security --no-pager why502 | sed -n 's/.*exposure level for [^:]*: //p')"

# A real failure of a real proxy that is a service too.
cat > /etc/nginx/conf.d/trial.conf << 'END'
server {
    listen 127.0.0.1:8080;
    location / { proxy_pass http://127.0.0.1:9; }
}
END
systemctl restart nginx
await watched
test "$(curl --silent --output /dev/null --write-out '%{http_code}' http://127.0.0.1:8080/)" = 502
verdict=$(said '"type":"verdict"' '"cause":"connection_refused"')
grep -q '"confidence":"proven"' <<< "$verdict"
grep -q '"nginx.service"' <<< "$verdict"
curl --silent --fail http://127.0.0.1:9502/metrics > /tmp/metrics
grep '^why502_failed_responses_total{.*"connection_refused"' /tmp/metrics | grep -q '"502".* 1$'
echo "service: a refused connection of nginx.service is proven, in the journal and in the metrics"

# Killed, it comes back, with what it knew.
before=$(pid)
systemctl kill --kill-who=main --signal=KILL why502
await restarted
ready
test "$(pid)" != "$before"
why502 report --since 1h --json | grep -q '"cause":"connection_refused"'
test -s /var/lib/private/why502/history.db
echo "service: killed, it was started again by systemd, and the verdict was kept"

# An upgrade starts the new one, with a person's settings.
echo 'privacy = "minimal"' >> /etc/why502/why502.toml
before=$(pid)
dpkg --install /trial/why502_*-2_amd64.deb > /dev/null
ready
test "$(pid)" != "$before"
await watched
curl --silent --output /dev/null http://127.0.0.1:8080/secret
said '"type":"verdict"' '"path":null' > /dev/null
if journalctl --unit=why502 --output=cat | grep -q /secret; then false; fi
echo "service: upgraded, with the person's setting"

before=$(pid)
dpkg --remove why502 > /dev/null
test ! -e "/proc/$before"
test "$(systemctl is-active why502 || true)" = inactive
said '"type":"summary"' > /dev/null
test -e /var/lib/private/why502/history.db
dpkg --purge why502 > /dev/null
test ! -e /var/lib/private/why502 -a ! -e /var/lib/why502 -a ! -e /etc/why502
echo "service: removed and purged, nothing left"
echo "vm: done"
