//! `/proc/PID/task/TID/syscall`: the system call a thread waits in, by name.

/// The call's number and its first arguments; `None` for a running or kernel thread.
pub(super) fn parse(text: &str) -> Option<(u64, [u64; 6])> {
    let mut fields = text.split_ascii_whitespace();
    let number = fields.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(fields.next()?.strip_prefix("0x")?, 16).ok()?;
    }
    Some((number, arguments))
}

/// The calls that threads wait in.
pub(super) fn name(number: u64) -> Option<&'static str> {
    table()
        .iter()
        .find(|(n, _)| *n == number)
        .map(|(_, name)| *name)
}

#[cfg(target_arch = "x86_64")]
fn table() -> &'static [(u64, &'static str)] {
    &[
        (0, "read"),
        (1, "write"),
        (7, "poll"),
        (17, "pread64"),
        (18, "pwrite64"),
        (19, "readv"),
        (20, "writev"),
        (23, "select"),
        (34, "pause"),
        (35, "nanosleep"),
        (40, "sendfile"),
        (42, "connect"),
        (43, "accept"),
        (44, "sendto"),
        (45, "recvfrom"),
        (46, "sendmsg"),
        (47, "recvmsg"),
        (61, "wait4"),
        (65, "semop"),
        (72, "fcntl"),
        (73, "flock"),
        (74, "fsync"),
        (75, "fdatasync"),
        (128, "rt_sigtimedwait"),
        (130, "rt_sigsuspend"),
        (202, "futex"),
        (220, "semtimedop"),
        (230, "clock_nanosleep"),
        (232, "epoll_wait"),
        (247, "waitid"),
        (257, "openat"),
        (270, "pselect6"),
        (271, "ppoll"),
        (281, "epoll_pwait"),
        (288, "accept4"),
        (299, "recvmmsg"),
        (426, "io_uring_enter"),
        (441, "epoll_pwait2"),
        (449, "futex_waitv"),
    ]
}

#[cfg(target_arch = "aarch64")]
fn table() -> &'static [(u64, &'static str)] {
    &[
        (22, "epoll_pwait"),
        (25, "fcntl"),
        (32, "flock"),
        (56, "openat"),
        (63, "read"),
        (64, "write"),
        (65, "readv"),
        (66, "writev"),
        (67, "pread64"),
        (68, "pwrite64"),
        (71, "sendfile"),
        (72, "pselect6"),
        (73, "ppoll"),
        (82, "fsync"),
        (83, "fdatasync"),
        (95, "waitid"),
        (98, "futex"),
        (101, "nanosleep"),
        (115, "clock_nanosleep"),
        (133, "rt_sigsuspend"),
        (137, "rt_sigtimedwait"),
        (192, "semtimedop"),
        (193, "semop"),
        (202, "accept"),
        (203, "connect"),
        (206, "sendto"),
        (207, "recvfrom"),
        (211, "sendmsg"),
        (212, "recvmsg"),
        (242, "accept4"),
        (243, "recvmmsg"),
        (260, "wait4"),
        (426, "io_uring_enter"),
        (441, "epoll_pwait2"),
        (449, "futex_waitv"),
    ]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn table() -> &'static [(u64, &'static str)] {
    &[]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes() {
        let (number, arguments) =
            parse("230 0x1 0x0 0x7ffd 0x0 0x0 0x0 0x7ffc 0x7fe3\n").expect("a waiting thread");
        assert_eq!((number, arguments[2]), (230, 0x7ffd));
        for none in [
            "running\n",
            "-1 0x7ffc 0x7fe3",
            "",
            "0 0x1",
            "0 1 2 3 4 5 6",
        ] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn numbers_are_in_order_and_unique() {
        assert!(table().windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
