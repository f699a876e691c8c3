
vcl 4.1;
import std;
import blob;
import directors;
backend good { .host = "127.0.0.1"; .port = "42297"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend refused { .host = "127.0.0.1"; .port = "44313"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend unreachable { .host = "10.99.9.9"; .port = "80"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend blackhole { .host = "127.0.0.1"; .port = "9"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend backlog_full { .host = "127.0.0.1"; .port = "58349"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend unix_missing { .path = "/tmp/why502-record/sock/missing"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend unix_stale { .path = "/tmp/why502-record/sock/stale"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend unix_datagram { .path = "/tmp/why502-record/sock/datagram"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend unix_full { .path = "/tmp/why502-record/sock/full"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend fin { .host = "127.0.0.1"; .port = "40189"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend partial_head { .host = "127.0.0.1"; .port = "41851"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend rst { .host = "127.0.0.1"; .port = "39133"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend close_unread { .host = "127.0.0.1"; .port = "38285"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend no_reply { .host = "127.0.0.1"; .port = "39241"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend not_read { .host = "127.0.0.1"; .port = "42155"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend never_accepted { .host = "127.0.0.1"; .port = "33285"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend banner { .host = "127.0.0.1"; .port = "40117"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend big_head { .host = "127.0.0.1"; .port = "43225"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend bad_head { .host = "127.0.0.1"; .port = "41811"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend truncated { .host = "127.0.0.1"; .port = "40025"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend answers_502 { .host = "127.0.0.1"; .port = "44179"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend answers_503 { .host = "127.0.0.1"; .port = "36187"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend answers_504 { .host = "127.0.0.1"; .port = "46521"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend plain_to_tls { .host = "127.0.0.1"; .port = "39999"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }
backend body_rejected { .host = "127.0.0.1"; .port = "45615"; .connect_timeout = 1s; .first_byte_timeout = 1s; .between_bytes_timeout = 1s; }

backend sick { .host = "127.0.0.1"; .port = "42297"; .probe = { .url = "/"; .initial = 0; .interval = 60s; } }
backend busy { .host = "127.0.0.1"; .port = "39241"; .max_connections = 1; .first_byte_timeout = 1s; }
sub vcl_init { new none = directors.round_robin(); none.add_backend(sick); }
sub vcl_recv {
  if (req.url ~ "^/good/") { set req.backend_hint = good; }
if (req.url ~ "^/refused/") { set req.backend_hint = refused; }
if (req.url ~ "^/unreachable/") { set req.backend_hint = unreachable; }
if (req.url ~ "^/blackhole/") { set req.backend_hint = blackhole; }
if (req.url ~ "^/backlog-full/") { set req.backend_hint = backlog_full; }
if (req.url ~ "^/unix-missing/") { set req.backend_hint = unix_missing; }
if (req.url ~ "^/unix-stale/") { set req.backend_hint = unix_stale; }
if (req.url ~ "^/unix-datagram/") { set req.backend_hint = unix_datagram; }
if (req.url ~ "^/unix-full/") { set req.backend_hint = unix_full; }
if (req.url ~ "^/fin/") { set req.backend_hint = fin; }
if (req.url ~ "^/partial-head/") { set req.backend_hint = partial_head; }
if (req.url ~ "^/rst/") { set req.backend_hint = rst; }
if (req.url ~ "^/close-unread/") { set req.backend_hint = close_unread; }
if (req.url ~ "^/no-reply/") { set req.backend_hint = no_reply; }
if (req.url ~ "^/not-read/") { set req.backend_hint = not_read; }
if (req.url ~ "^/never-accepted/") { set req.backend_hint = never_accepted; }
if (req.url ~ "^/banner/") { set req.backend_hint = banner; }
if (req.url ~ "^/big-head/") { set req.backend_hint = big_head; }
if (req.url ~ "^/bad-head/") { set req.backend_hint = bad_head; }
if (req.url ~ "^/truncated/") { set req.backend_hint = truncated; }
if (req.url ~ "^/answers-502/") { set req.backend_hint = answers_502; }
if (req.url ~ "^/answers-503/") { set req.backend_hint = answers_503; }
if (req.url ~ "^/answers-504/") { set req.backend_hint = answers_504; }
if (req.url ~ "^/plain-to-tls/") { set req.backend_hint = plain_to_tls; }
if (req.url ~ "^/body-rejected/") { set req.backend_hint = body_rejected; }

  if (req.url ~ "^/returns/") { return (synth(503)); }
  if (req.url ~ "^/ready") { return (synth(200)); }
  if (req.url ~ "^/unhealthy/") { set req.backend_hint = sick; }
  if (req.url ~ "^/directed/") { set req.backend_hint = none.backend(); }
  if (req.url ~ "^/busy/") { set req.backend_hint = busy; }
  if (req.url ~ "^/(saved|tried)/") { set req.backend_hint = refused; }
  if (req.url ~ "^/forged/") {
    set req.backend_hint = refused;
    std.log(blob.transcode(decoding=URL, encoding=IDENTITY, encoded=req.url));
  }
  return (pass);
}
sub vcl_backend_fetch {
  if (bereq.retries > 0) {
    set bereq.backend = fin;
    if (bereq.url ~ "^/saved/") { set bereq.backend = good; }
  }
  if (bereq.url ~ "^/forged/") {
    std.log(blob.transcode(decoding=URL, encoding=IDENTITY, encoded=bereq.url));
  }
}
sub vcl_backend_error { if (bereq.url ~ "^/(saved|tried)/" && bereq.retries < 1) { return (retry); } }
