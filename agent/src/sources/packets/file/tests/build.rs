//! Capture files made by hand, in either byte order.

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    Big,
    Little,
}

impl Order {
    pub(super) const BOTH: [Order; 2] = [Order::Big, Order::Little];

    pub(super) fn u16(self, value: u16) -> [u8; 2] {
        match self {
            Order::Big => value.to_be_bytes(),
            Order::Little => value.to_le_bytes(),
        }
    }

    pub(super) fn u32(self, value: u32) -> [u8; 4] {
        match self {
            Order::Big => value.to_be_bytes(),
            Order::Little => value.to_le_bytes(),
        }
    }

    pub(super) fn u64(self, value: u64) -> [u8; 8] {
        match self {
            Order::Big => value.to_be_bytes(),
            Order::Little => value.to_le_bytes(),
        }
    }
}

pub(super) const MICROSECONDS: u32 = 0xa1b2_c3d4;
pub(super) const NANOSECONDS: u32 = 0xa1b2_3c4d;

/// A classic capture; records are (seconds, fraction, bytes on the wire, captured bytes).
pub(super) fn pcap(order: Order, magic: u32, records: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(order.u32(magic));
    file.extend(order.u16(2));
    file.extend(order.u16(4));
    for word in [0, 0, 65_535, 1] {
        file.extend(order.u32(word));
    }
    for &(seconds, fraction, original, data) in records {
        let captured = u32::try_from(data.len()).unwrap();
        for word in [seconds, fraction, captured, original] {
            file.extend(order.u32(word));
        }
        file.extend(data);
    }
    file
}

pub(super) fn block(order: Order, kind: u32, body: &[u8]) -> Vec<u8> {
    let mut padded = body.to_vec();
    padded.resize(body.len().next_multiple_of(4), 0);
    let length = order.u32(u32::try_from(padded.len() + 12).unwrap());
    [&order.u32(kind)[..], &length, &padded, &length].concat()
}

pub(super) fn section(order: Order) -> Vec<u8> {
    let mut body = order.u32(0x1a2b_3c4d).to_vec();
    body.extend(order.u16(1));
    body.extend(order.u16(0));
    body.extend(order.u64(u64::MAX));
    block(order, 0x0a0d_0d0a, &body)
}

pub(super) fn option(order: Order, code: u16, value: &[u8]) -> Vec<u8> {
    let mut option = order.u16(code).to_vec();
    option.extend(order.u16(u16::try_from(value.len()).unwrap()));
    option.extend(value);
    option.resize(option.len().next_multiple_of(4), 0);
    option
}

pub(super) fn interface(order: Order, link_type: u16, snap: u32, options: &[Vec<u8>]) -> Vec<u8> {
    let mut body = order.u16(link_type).to_vec();
    body.extend([0, 0]);
    body.extend(order.u32(snap));
    body.extend(options.concat());
    block(order, 1, &body)
}

pub(super) fn enhanced(
    order: Order,
    interface: u32,
    ticks: u64,
    original: u32,
    data: &[u8],
    options: &[Vec<u8>],
) -> Vec<u8> {
    let mut body = Vec::new();
    let (high, low) = ((ticks >> 32) as u32, ticks as u32);
    let captured = u32::try_from(data.len()).unwrap();
    for word in [interface, high, low, captured, original] {
        body.extend(order.u32(word));
    }
    body.extend(data);
    body.resize(body.len().next_multiple_of(4), 0);
    body.extend(options.concat());
    block(order, 6, &body)
}

pub(super) fn obsolete(order: Order, interface: u16, ticks: u64, data: &[u8]) -> Vec<u8> {
    let mut body = order.u16(interface).to_vec();
    body.extend(order.u16(7));
    let length = u32::try_from(data.len()).unwrap();
    for word in [(ticks >> 32) as u32, ticks as u32, length, length] {
        body.extend(order.u32(word));
    }
    body.extend(data);
    block(order, 2, &body)
}

pub(super) fn simple(order: Order, original: u32, data: &[u8]) -> Vec<u8> {
    block(order, 3, &[&order.u32(original)[..], data].concat())
}
