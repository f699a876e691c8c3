//! What reading a capture costs at the least with libpcap: a loop that touches two bytes of each
//! packet. `cargo xtask bench offline` measures against it.

use std::process::ExitCode;

// A libpcap that is linked in needs what this stands in for.
use why502 as _;

fn main() -> ExitCode {
    let Some(file) = std::env::args_os().nth(1) else {
        eprintln!("usage: bare_loop FILE");
        return ExitCode::from(2);
    };
    let mut capture = match pcap::Capture::from_file(file) {
        Ok(capture) => capture,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let (mut packets, mut touched) = (0_u64, 0_u64);
    loop {
        match capture.next_packet() {
            Ok(packet) => {
                packets += 1;
                let data = packet.data;
                touched += u64::from(data[0]) + u64::from(data[data.len() / 2]);
            }
            Err(pcap::Error::NoMorePackets) => break,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{packets} packets, {touched}");
    ExitCode::SUCCESS
}
