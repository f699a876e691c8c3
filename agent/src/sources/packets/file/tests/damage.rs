use std::fs::OpenOptions;
use std::io::Write as _;

use super::super::mapped::{Mapped, WINDOW};
use super::super::window::{MAX_RECORD, Window};
use super::super::{Capture, Input, OpenError, Problem};
use super::build::{MICROSECONDS, Order, block, enhanced, interface, pcap, section, simple};
use super::{frames, read, stored};

fn malformed(bytes: &[u8]) -> (usize, u64, String) {
    let (frames, error) = read(bytes).unwrap();
    let error = error.expect("an error");
    match error.problem {
        Problem::Malformed(reason) => (frames.len(), error.offset, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_cut_anywhere_gives_the_frames_up_to_there_and_the_offset() {
    for name in ["loopback.pcap", "loopback.pcapng"] {
        let whole = stored(name);
        let all = frames(&whole);
        let mut ends = 0;
        for length in 1..whole.len() {
            let (frames, error) = match read(&whole[..length]) {
                Ok(result) => result,
                Err(OpenError::NotACapture { .. }) if length < 4 => continue,
                Err(OpenError::Header(error)) => {
                    assert!(length < 24 && error.is_truncation() && error.offset == 0);
                    continue;
                }
                Err(error) => panic!("{name} {length}: {error}"),
            };
            assert_eq!(frames, all[..frames.len()], "{name} {length}");
            match error {
                // Between two records the file looks whole.
                None => ends += 1,
                Some(error) => {
                    assert!(error.is_truncation(), "{error}");
                    assert!(error.offset < length as u64);
                    assert_eq!(error.frames, frames.len() as u64);
                }
            }
        }
        assert!(ends >= 31, "{name}: {ends}");
    }
}

#[test]
fn the_message_names_file_offset_and_frames() {
    let whole = pcap(
        Order::Little,
        MICROSECONDS,
        &[(0, 0, 4, b"abcd"), (0, 0, 4, b"efgh")],
    );
    let (_, error) = read(&whole[..whole.len() - 1]).unwrap();
    assert_eq!(
        error.unwrap().to_string(),
        "test: byte 44: the file ends within the record that begins there, as when the capture \
         was interrupted; the frame before it was read"
    );
}

#[test]
fn absurd_lengths_are_errors_and_allocate_nothing() {
    for order in Order::BOTH {
        let mut file = pcap(order, MICROSECONDS, &[(0, 0, 1, b"x")]);
        for word in [0, 0, 0x7fff_ffff, 1] {
            file.extend(order.u32(word));
        }
        let (before, offset, reason) = malformed(&file);
        assert_eq!((before, offset), (1, 41));
        assert!(reason.contains("2147483647"), "{reason}");

        let start = [section(order), interface(order, 1, 0, &[])].concat();
        for length in [0xffff_fffc, MAX_RECORD as u32 + 4, 8, 0, 13] {
            let mut file = start.clone();
            file.extend(order.u32(6));
            file.extend(order.u32(length));
            file.extend([0; 8]);
            let (_, offset, reason) = malformed(&file);
            assert_eq!(offset, start.len() as u64);
            assert!(reason.contains(&length.to_string()), "{reason}");
        }
    }
}

#[test]
fn a_length_alone_allocates_no_more_than_the_file_has() {
    let order = Order::Little;
    let mut file = section(order);
    file.extend(order.u32(6));
    file.extend(order.u32(MAX_RECORD as u32));
    file.extend([0; 100]);
    let mut window = Window::new(Box::new(std::io::Cursor::new(file)));
    assert!(!window.ensure(MAX_RECORD).unwrap());
    assert!(window.capacity() < 1024 * 1024);
}

#[test]
fn blocks_that_contradict_themselves_are_named() {
    let order = Order::Little;
    let start = [section(order), interface(order, 1, 0, &[])].concat();
    let mut wrong_end = enhanced(order, 0, 0, 4, b"abcd", &[]);
    let last = wrong_end.len() - 4;
    wrong_end[last] ^= 4;
    let mut overlong = enhanced(order, 0, 0, 4, b"abcd", &[]);
    overlong[20] = 200;
    for (bad, word) in [
        (wrong_end, "differs"),
        (overlong, "packet of 200 bytes"),
        (enhanced(order, 7, 0, 1, b"x", &[]), "interface 7"),
        (block(order, 6, b"short"), "too short"),
        (block(order, 3, b""), "too short"),
        (simple(order, 20, b"x"), "packet of 20 bytes"),
        (block(order, 1, b"x"), "too short"),
        (block(order, 0x0a0d_0d0a, b"xxxx"), "byte order"),
        (
            interface(order, 1, 0, &[super::build::option(order, 9, &[60])]),
            "resolution 60",
        ),
    ] {
        let (before, offset, reason) = malformed(&[start.clone(), bad].concat());
        assert_eq!((before, offset), (0, start.len() as u64));
        assert!(reason.contains(word), "{reason}");
    }
    // A packet before any interface.
    let (_, _, reason) = malformed(&[section(order), simple(order, 1, b"x")].concat());
    assert!(reason.contains("interface 0"), "{reason}");
}

#[test]
fn versions_that_are_not_known_are_named() {
    let mut file = pcap(Order::Big, MICROSECONDS, &[]);
    file[5] = 3;
    let Err(OpenError::Header(error)) = read(&file) else {
        panic!("opened");
    };
    assert!(error.to_string().contains("version 3"), "{error}");
    let mut file = section(Order::Big);
    file[13] = 9;
    assert!(malformed(&file).2.contains("version 9"));
}

/// Xorshift: enough chance for tests, the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

#[test]
fn random_damage_never_panics_nor_invents_frames_before_it() {
    let mut chance = Chance(0x5eed);
    for name in [
        "loopback.pcap",
        "loopback.pcapng",
        "loopback.pcap.gz",
        "loopback.pcap.zst",
    ] {
        let whole = stored(name);
        let all = frames(&whole);
        for _ in 0..2_000 {
            let mut bytes = whole.clone();
            let mut first = bytes.len();
            for _ in 0..=chance.below(4) {
                let at = chance.below(bytes.len());
                bytes[at] ^= 1 << chance.below(8);
                first = first.min(at);
            }
            let Ok((frames, error)) = read(&bytes) else {
                continue;
            };
            if let Some(error) = &error {
                assert_eq!(error.frames, frames.len() as u64);
            }
            if name.ends_with("pcap") || name.ends_with("pcapng") {
                let same = frames.iter().zip(&all).take_while(|(a, b)| a == b).count();
                let sound: usize = all[..same].iter().map(|frame| frame.data.len()).sum();
                let next = all.get(same).map_or(0, |frame| frame.data.len());
                assert!(
                    sound + next + 40 * (same + 2) + 300 >= first,
                    "{name} {first}"
                );
            }
        }
    }
}

/// Frames of this many bytes, so many of them, in a file of its own.
fn long_capture(frames: u32) -> tempfile::NamedTempFile {
    let data = [7; 1000];
    let records: Vec<(u32, u32, u32, &[u8])> = (0..frames)
        .map(|i| (1_790_000_000 + i, 0, 1000, &data[..]))
        .collect();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let bytes = pcap(Order::Little, MICROSECONDS, &records);
    file.write_all(&bytes).unwrap();
    file
}

#[test]
fn a_file_is_read_through_several_windows() {
    const FRAMES: u32 = 20_000;
    let file = long_capture(FRAMES);
    let mut capture = Capture::open(file.path()).unwrap();
    let mut frames = 0;
    while let Some(batch) = capture.next_frames() {
        for frame in batch.unwrap() {
            frames += 1;
            assert!(frame.data.len() == 1000 && frame.data.iter().all(|b| *b == 7));
        }
    }
    assert_eq!(frames, FRAMES);
}

#[test]
fn of_a_long_file_one_window_is_in_memory() {
    const MEGABYTE: usize = 1 << 20;
    let file = long_capture(20_000).into_file();
    let mut mapped = Mapped::new(file).unwrap();
    assert_eq!((WINDOW, mapped.bytes().len()), (MEGABYTE, MEGABYTE));
    // Unless more is asked for.
    let begin = mapped.show(3 * MEGABYTE as u64 + 5, 2 * MEGABYTE).unwrap();
    assert_eq!(begin, 3 * MEGABYTE as u64);
    assert_eq!(mapped.bytes().len(), 2 * MEGABYTE + 5);
}

#[test]
fn a_file_that_becomes_shorter_is_an_error_not_the_end_of_the_program() {
    for kept in [0, 100, 500_000] {
        let file = long_capture(20_000);
        let mut capture = Capture::open(file.path()).unwrap();
        let first = capture.next_frames().unwrap().unwrap().count();
        assert!(first > 0 && !capture.is_torn());
        file.as_file().set_len(kept).unwrap();
        let error = loop {
            match capture.next_frames().expect("no end without an error") {
                Ok(batch) => assert!(batch.map(|frame| frame.data.len()).sum::<usize>() < 1 << 21),
                Err(error) => break error,
            }
        };
        assert!(matches!(error.problem, Problem::Torn), "{kept}: {error}");
    }
}

#[test]
fn a_file_that_becomes_shorter_between_two_windows_has_not_just_ended() {
    let file = long_capture(2000);
    let mut window = Window::of_input(Input::open(file.path()).unwrap());
    assert!(window.ensure(WINDOW).unwrap() && window.is_far());
    window.take(WINDOW);
    file.as_file().set_len(100).unwrap();
    assert!(!window.ensure(16).unwrap());
    assert!(window.held().is_empty() && window.is_torn());
}

#[test]
fn a_file_that_cannot_be_mapped_is_read() {
    // Its size is 0, and the kernel refuses to map it.
    let input = Input::open("/proc/version".as_ref()).unwrap();
    let mut window = Window::of_input(input);
    assert!(!window.is_far() && window.ensure(5).unwrap());
    assert_eq!(&window.held()[..5], b"Linux");

    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(100).unwrap();
    let unreadable = OpenOptions::new().write(true).open(file.path()).unwrap();
    assert!(Mapped::new(unreadable).is_none());
    assert!(Mapped::new(file.into_file()).is_some());
}
