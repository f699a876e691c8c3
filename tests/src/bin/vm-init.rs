//! Process 1 of the virtual machines that `cargo xtask vm` boots: mounts what a host has mounted, runs
//! the commands it was given, and powers off.
//!
//! What is to be done is in `/vm/run`, one shell command a line. Each one's end is told on the console
//! as `vm: STATUS COMMAND`. What they leave in `/vm/out` is read from the disk's image afterwards. The
//! last line on the console is `vm: done`, or `vm: failed` with the reason.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

/// Device, place, type.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("devpts", "/dev/pts", "devpts"),
    ("tmpfs", "/dev/shm", "tmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("tmpfs", "/tmp", "tmpfs"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2"),
    ("bpf", "/sys/fs/bpf", "bpf"),
    ("tracefs", "/sys/kernel/tracing", "tracefs"),
];

/// Where programs and what they read lie on the disk.
const ON_DISK: [&str; 2] = ["/usr", "/etc"];

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("vm-init: this is process 1 of a virtual machine; `cargo xtask vm` starts it");
        return ExitCode::from(2);
    }
    match run() {
        Ok(()) => println!("vm: done"),
        Err(error) => println!("vm: failed: {error:#}"),
    }
    // SAFETY: calls with constant strings, and with no memory at all.
    unsafe {
        libc::sync();
        // What is not closed yet is still written; the image is read when the machine is off.
        let read_only = libc::MS_REMOUNT | libc::MS_RDONLY;
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            read_only,
            std::ptr::null(),
        );
        libc::reboot(libc::RB_POWER_OFF);
    }
    ExitCode::FAILURE
}

fn run() -> Result<()> {
    for &(device, place, kind) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("create {place}"))?;
        // The kernel may have mounted it already, as it does with /dev.
        match mount(device, place, kind) {
            Err(error) if error.raw_os_error() != Some(libc::EBUSY) => {
                return Err(error).with_context(|| format!("mount {kind} on {place}"));
            }
            _ => {}
        }
    }
    raise_loopback().context("bring up lo")?;
    for module in lines("/vm/modules")? {
        load(&module).with_context(|| format!("load {module}"))?;
    }
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("vm: Linux {}", kernel.trim());
    for folder in ON_DISK {
        read_once(Path::new(folder)).with_context(|| format!("read {folder}"))?;
    }
    println!("vm: files read");
    for command in lines("/vm/run")? {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &command])
            .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .current_dir("/vm/out")
            .spawn()
            .context("start /bin/sh")?;
        let status = await_child(&mut child)?;
        println!("vm: {status} {command}");
    }
    Ok(())
}

/// Brings every file of a folder into the machine's memory, where it stays. The machine's clock leaps over the
/// time for which it waits for its disk: what a scenario would have to wait for comes too late by any measure.
fn read_once(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            read_once(&entry.path())?;
        } else if kind.is_file() {
            io::copy(&mut fs::File::open(entry.path())?, &mut io::sink())?;
        }
    }
    Ok(())
}

/// Waits for the command, and meanwhile buries the orphans that come to process 1.
fn await_child(child: &mut std::process::Child) -> Result<i32> {
    let wanted = i32::try_from(child.id())?;
    loop {
        let mut status = 0;
        // SAFETY: waits for any child; the status lives in this frame.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if ended == wanted {
            let status = std::process::ExitStatus::from_raw(status);
            return Ok(status
                .code()
                .or_else(|| status.signal().map(|signal| 128 + signal))
                .unwrap_or(-1));
        }
        let error = io::Error::last_os_error();
        if ended < 0 && error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("wait for the command");
        }
    }
}

fn lines(path: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let lines = text.lines().filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

fn mount(device: &str, place: &str, kind: &str) -> io::Result<()> {
    let [device, place, kind] =
        [device, place, kind].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: three strings that live in this frame.
    let result = unsafe {
        libc::mount(
            device.as_ptr(),
            place.as_ptr(),
            kind.as_ptr(),
            0,
            std::ptr::null(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn raise_loopback() -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: any bytes are a request; it lives in this frame.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn load(module: &str) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let file = fs::File::open(module)?;
    // SAFETY: a descriptor and a string, both alive.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    let error = io::Error::last_os_error();
    ensure!(
        result == 0 || error.raw_os_error() == Some(libc::EEXIST),
        "{error}"
    );
    Ok(())
}
