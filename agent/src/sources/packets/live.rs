//! Live capture through libpcap, in any network namespace.

mod error;

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;
use std::thread;

use pcap::{Active, Linktype, Precision};

use super::raw::{LinkType, RawFrame};
use super::segment::Frame;

pub use error::Error;

/// Enough of a packet for every header and the beginning of a request or response.
const SNAP_LENGTH: i32 = 2048;
/// What the kernel holds while nobody reads: over 100 ms of 100,000 full-sized packets a second.
const BUFFER: i32 = 16 * 1024 * 1024;
/// The longest a packet waits for others, so that they are handed over together.
const TIMEOUT_MS: i32 = 50;
/// How long `next_frame` waits for a packet.
const PATIENCE_MS: i32 = 100;

/// Where and what to capture.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// An interface's name, or `any`.
    pub interface: &'a str,
    /// In libpcap's language; packets that it refuses are not copied by the kernel.
    pub filter: &'a str,
    /// What else to take where frames have Ethernet's header; after `vlan` libpcap looks behind the tag,
    /// and of other link types it refuses the word.
    pub on_ethernet: Option<&'a str>,
    /// The namespace's file, `/proc/PID/ns/net` for example; `None` for our own.
    pub namespace: Option<&'a Path>,
}

impl Settings<'_> {
    /// What libpcap is given for frames of this kind.
    pub(super) fn whole_filter(&self, link: Linktype) -> Cow<'_, str> {
        match self.on_ethernet.filter(|_| link == Linktype::ETHERNET) {
            Some(more) => format!("{} or ({more})", self.filter).into(),
            None => self.filter.into(),
        }
    }
}

/// A running capture. Its descriptors stay in the namespace in which it was opened.
pub struct Live {
    capture: pcap::Capture<Active>,
    /// The capture's own, to wait for.
    descriptor: RawFd,
    interface: String,
    link_type: LinkType,
    frames: u64,
    dropped: Dropped,
}

/// Packets that were not delivered, since the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// By the kernel, because they were read too slowly.
    pub by_kernel: u64,
    /// By the network card or its driver; where the system tells.
    pub by_interface: u64,
}

impl Live {
    pub fn open(settings: &Settings<'_>) -> Result<Live, Error> {
        let Some(path) = settings.namespace else {
            return open_here(settings);
        };
        let refused = |error| Error::Namespace {
            path: path.to_owned(),
            error,
        };
        let namespace = File::open(path).map_err(refused)?;
        // A thread of its own, which ends in the namespace that it enters.
        thread::scope(|scope| {
            let opened = thread::Builder::new()
                .name("why502-netns".to_owned())
                .spawn_scoped(scope, || {
                    // SAFETY: the descriptor is open, and only this thread is moved.
                    if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                        return Err(refused(io::Error::last_os_error()));
                    }
                    open_here(settings)
                })
                .map_err(Error::Thread)?;
            match opened.join() {
                Ok(opened) => opened,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The next frame; `None` when there is none yet, at the latest after a tenth of a second.
    pub fn next_frame(&mut self) -> Result<Option<RawFrame<'_>>, Error> {
        let descriptor = self.descriptor;
        let next = self.waiting_frame();
        if matches!(next, Ok(None)) {
            wait(&[descriptor], PATIENCE_MS);
        }
        next
    }

    /// The next frame that is there already.
    #[inline]
    pub fn waiting_frame(&mut self) -> Result<Option<RawFrame<'_>>, Error> {
        let packet = match self.capture.next_packet() {
            Ok(packet) => packet,
            Err(pcap::Error::TimeoutExpired) => return Ok(None),
            Err(error) => return Err(failed(&self.interface, &error)),
        };
        self.frames += 1;
        let seconds = u64::try_from(packet.header.ts.tv_sec).unwrap_or(0);
        // Nanoseconds, as was asked for.
        let fraction = u64::try_from(packet.header.ts.tv_usec).unwrap_or(0);
        Ok(Some(RawFrame {
            at: seconds * 1_000_000_000 + fraction,
            frame: Frame {
                number: self.frames,
                interface: 0,
            },
            link_type: self.link_type,
            original_length: packet.header.len,
            data: packet.data,
        }))
    }

    /// What becomes readable when there are frames.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// Losses since the beginning. Cheap, not free: a few microseconds.
    pub fn dropped(&mut self) -> Result<Dropped, Error> {
        let now = self
            .capture
            .stats()
            .map_err(|error| failed(&self.interface, &error))?;
        // libpcap counts with 32 bits.
        self.dropped.by_kernel = grown(self.dropped.by_kernel, now.dropped);
        self.dropped.by_interface = grown(self.dropped.by_interface, now.if_dropped);
        Ok(self.dropped)
    }

    pub fn interface(&self) -> &str {
        &self.interface
    }

    pub fn link_type(&self) -> LinkType {
        self.link_type
    }
}

/// Until one of them has a packet, or time is over. libpcap itself would wait for ever where no
/// packet comes: its time-out begins with the first one.
#[cold]
pub fn wait(descriptors: &[RawFd], milliseconds: i32) {
    let of = |&fd: &RawFd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polls: Vec<libc::pollfd> = descriptors.iter().map(of).collect();
    let count = polls.len() as libc::nfds_t;
    // SAFETY: live entries, as many as the count says. Whatever comes back, the next read tells more.
    unsafe { libc::poll(polls.as_mut_ptr(), count, milliseconds) };
}

/// A count whose lower half is known, at or after what it was.
fn grown(before: u64, low: u32) -> u64 {
    let more = low.wrapping_sub(before as u32);
    before + u64::from(more)
}

fn open_here(settings: &Settings<'_>) -> Result<Live, Error> {
    let interface = settings.interface;
    let failed = |error| match failed(interface, &error) {
        Error::Capture { interface, message } if message.contains("No such device") => {
            Error::Capture {
                interface,
                message: format!("{message}; {}", interfaces()),
            }
        }
        error => error,
    };
    let mut capture = pcap::Capture::from_device(interface)
        .map_err(failed)?
        .promisc(false)
        .snaplen(SNAP_LENGTH)
        .buffer_size(BUFFER)
        .timeout(TIMEOUT_MS)
        .precision(Precision::Nano)
        .open()
        .and_then(pcap::Capture::setnonblock)
        .map_err(failed)?;
    let filter = settings.whole_filter(capture.get_datalink());
    capture
        .filter(&filter, true)
        .map_err(|error| Error::Filter {
            filter: filter.into_owned(),
            message: words(&error),
        })?;
    let link_type = LinkType(u16::try_from(capture.get_datalink().0).unwrap_or(u16::MAX));
    Ok(Live {
        descriptor: capture.as_raw_fd(),
        capture,
        interface: interface.to_owned(),
        link_type,
        frames: 0,
        dropped: Dropped::default(),
    })
}

/// The interfaces of the namespace that this thread is in.
#[cold]
fn interfaces() -> String {
    match pcap::Device::list() {
        Ok(devices) if !devices.is_empty() => {
            let names: Vec<String> = devices.into_iter().map(|device| device.name).collect();
            format!("there are {}", names.join(", "))
        }
        _ => "`ip link` lists those that there are".to_owned(),
    }
}

#[cold]
fn failed(interface: &str, error: &pcap::Error) -> Error {
    Error::Capture {
        interface: interface.to_owned(),
        message: words(error),
    }
}

fn words(error: &pcap::Error) -> String {
    match error {
        pcap::Error::PcapError(words) => words.clone(),
        other => other.to_string(),
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live")
            .field("interface", &self.interface)
            .field("link_type", &self.link_type)
            .field("frames", &self.frames)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::path::PathBuf;
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::{Duration, Instant};

    use super::super::decode::{Decoded, decode};
    use super::*;

    fn settings<'a>(interface: &'a str, filter: &'a str) -> Settings<'a> {
        Settings {
            interface,
            filter,
            on_ethernet: None,
            namespace: None,
        }
    }

    /// Root, and allowed to capture; else says why the test is skipped.
    fn may_capture() -> bool {
        match Live::open(&settings("lo", "")) {
            Ok(_) => true,
            Err(error) => {
                println!("skipped: {error}");
                false
            }
        }
    }

    /// Reads until a SYN to this port.
    fn syn_to(live: &mut Live, port: u16) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(frame) = live.next_frame().unwrap()
                && let Decoded::Segment(segment) = decode(&frame)
                && segment.flags.syn()
                && segment.to.port() == port
            {
                return true;
            }
        }
        false
    }

    #[test]
    fn a_connection_in_another_namespace_is_seen_there_alone() {
        if !may_capture() {
            return;
        }
        let (ready, is_ready) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let inside = thread::spawn(move || {
            // SAFETY: affects only this thread, which ends with the test.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                println!("skipped: {}", io::Error::last_os_error());
                return;
            }
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            if !up.is_ok_and(|status| status.success()) {
                println!("skipped: ip is not installed");
                return;
            }
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            // SAFETY: no precondition; it cannot fail.
            let thread = unsafe { libc::gettid() };
            ready.send((thread, port)).unwrap();
            let _ = may_go.recv();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let _ = may_go.recv();
        });
        let Ok((thread, port)) = is_ready.recv() else {
            inside.join().unwrap();
            return;
        };
        let filter = format!("tcp port {port}");
        let path = PathBuf::from(format!("/proc/{thread}/ns/net"));
        let open = |interface| {
            Live::open(&Settings {
                interface,
                filter: &filter,
                on_ethernet: Some("vlan and tcp"),
                namespace: Some(&path),
            })
            .unwrap()
        };
        let (mut any, mut loopback) = (open("any"), open("lo"));
        let mut outside = Live::open(&settings("any", &filter)).unwrap();
        go.send(()).unwrap();
        assert!(syn_to(&mut any, port));
        assert_eq!(any.link_type(), LinkType::LINUX_SLL);
        assert!(syn_to(&mut loopback, port));
        assert_eq!(loopback.link_type(), LinkType::ETHERNET);
        assert_eq!(any.dropped().unwrap().by_kernel, 0);
        assert!(outside.next_frame().unwrap().is_none());
        drop(go);
        inside.join().unwrap();
    }

    #[test]
    fn what_cannot_be_captured_is_named() {
        if !may_capture() {
            return;
        }
        let message = |settings| Live::open(&settings).unwrap_err().to_string();
        let text = message(settings("nowhere0", ""));
        assert!(text.starts_with("capture on nowhere0: "), "{text}");
        let text = message(settings("lo", "tcp prot 80"));
        assert!(
            text.starts_with("the capture filter \"tcp prot 80\": "),
            "{text}"
        );
        let text = message(Settings {
            namespace: Some(Path::new("/proc/0/ns/net")),
            ..settings("lo", "")
        });
        assert!(
            text.starts_with("enter the network namespace /proc/0/ns/net: "),
            "{text}"
        );
    }

    #[test]
    fn counts_that_wrap_go_on() {
        assert_eq!(grown(0, 7), 7);
        assert_eq!(grown(7, 7), 7);
        assert_eq!(grown(0xffff_fff0, 0x10), 0x1_0000_0010);
    }
}
