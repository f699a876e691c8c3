<?php
// The model server for PHP: the query's `do` chooses, the log tells what happened.
function say($what, $path) {
    $line = ['what' => $what, 'path' => $path, 't' => hrtime(true), 'pid' => getmypid()];
    file_put_contents(getenv('APP_LOG'), json_encode($line) . "\n", FILE_APPEND);
}

// PHP's own stack is on its heap; calls through a function of the library are on the process's.
function descend() {
    array_map('descend', [0]);
}

$path = strtok($_SERVER['REQUEST_URI'], '?');
parse_str($_SERVER['QUERY_STRING'], $query);
say('read', $path);
file_get_contents('php://input');
usleep(($query['ms'] ?? 0) * 1000);
switch ($query['do'] ?? '') {
    case 'exit':
        FFI::cdef('void _exit(int status);')->_exit(7);
    case 'segv':
        descend();
    case 'memory':
        ini_set('memory_limit', -1);
        for ($eaten = [];;) {
            $eaten[] = str_repeat('x', 1 << 20);
        }
    case 'big-head':
        for ($number = 0; $number < 120; $number++) {
            header("X-Filler-$number: " . str_repeat('a', 1000));
        }
}
http_response_code((int) ($query['status'] ?? 200));
header('Content-Length: 3');
say('answered', $path);
echo "ok\n";
