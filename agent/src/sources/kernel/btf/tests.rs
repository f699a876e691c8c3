//! BTF as kernels write it, made by hand: what newer ones add must not hide what is wanted.

use super::*;

const VOID: u32 = 0;
const KIND_INT: u32 = 1;
const KIND_UNKNOWN: u32 = 23;

/// BTF that is being written.
struct Made {
    types: Vec<u8>,
    strings: Vec<u8>,
    layout: Option<Vec<u8>>,
}

impl Made {
    fn new() -> Made {
        Made {
            types: Vec::new(),
            strings: vec![0],
            layout: None,
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        let at = self.strings.len() as u32;
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        at
    }

    /// A type: its name, `info`, its size or type, and the words behind them.
    fn with(mut self, name: &str, info: u32, size: u32, words: &[u32]) -> Made {
        let name = self.name(name);
        for word in [name, info, size].iter().chain(words) {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
        self
    }

    /// `struct name` with one member for each name, 32 bits apart, all of them type 1.
    fn with_struct(mut self, name: &str, flag: bool, members: &[&str]) -> Made {
        let info = KIND_STRUCT << 24 | members.len() as u32 | u32::from(flag) << 31;
        // With the flag the upper byte is a bitfield's size: 3 bits here.
        let size = if flag { 3 << 24 } else { 0 };
        let words: Vec<u32> = members
            .iter()
            .enumerate()
            .flat_map(|(i, member)| [self.name(member), 1, size | (32 * i as u32)])
            .collect();
        self.with(name, info, 4 * members.len() as u32, &words)
    }

    fn with_unknown(self) -> Made {
        // Four bytes once, and eight for each of two.
        self.with("later", KIND_UNKNOWN << 24 | 2, 0, &[7; 5])
    }

    /// The layout of all kinds up to the unknown one, which alone counts.
    fn with_layout(mut self) -> Made {
        let mut layout = vec![0; KIND_UNKNOWN as usize * LAYOUT];
        layout.extend_from_slice(&[4, 8, 0, 0]);
        self.layout = Some(layout);
        self
    }

    fn bytes(self) -> Vec<u8> {
        let header = match self.layout {
            Some(_) => HEADER_WITH_LAYOUT,
            None => HEADER,
        };
        let layout = self.layout.unwrap_or_default();
        let strings_at = self.types.len() + layout.len();
        // The layout lies between the types and the strings, where libbpf puts it.
        let mut words = vec![header, 0, self.types.len(), strings_at, self.strings.len()];
        if header == HEADER_WITH_LAYOUT {
            words.extend([self.types.len(), layout.len()]);
        }
        let mut out = MAGIC.to_ne_bytes().to_vec();
        out.extend_from_slice(&[1, 0]);
        for word in words {
            out.extend_from_slice(&(word as u32).to_ne_bytes());
        }
        [out, self.types, layout, self.strings].concat()
    }
}

fn int() -> Made {
    Made::new().with("int", KIND_INT << 24, 4, &[32])
}

#[test]
fn members_are_found_with_and_without_the_flag() {
    let made = int()
        .with_struct("plain", false, &["a", "b", "c"])
        .with_struct("flagged", true, &["a", "b"]);
    let btf = Btf::parse(made.bytes()).unwrap();
    assert_eq!(btf.offset("plain", "c"), Some(8));
    assert_eq!(btf.offset("flagged", "b"), Some(4));
    assert_eq!(btf.size("flagged"), Some(8));
    assert_eq!(btf.offset("plain", "d"), None);
}

/// Bit 31 says of an enum that its values are signed.
#[test]
fn a_flag_changes_no_other_kind() {
    let mut made = int();
    let value = made.name("ABORT");
    let made = made.with("reason", KIND_ENUM << 24 | 1 << 31 | 1, 4, &[value, 7]);
    let btf = Btf::parse(made.bytes()).unwrap();
    assert_eq!(btf.enumerator("reason", "ABORT"), Some(7));
}

#[test]
fn a_kind_of_later_kernels_is_stepped_over_by_the_layout() {
    let made = int()
        .with_unknown()
        .with_struct("sock", false, &["family", "port"])
        .with_layout();
    let btf = Btf::parse(made.bytes()).unwrap();
    assert_eq!(btf.offset("sock", "port"), Some(4));
}

/// Kinds had five bits once: a sixth must not make another kind of it.
#[test]
fn a_kind_beyond_five_bits_is_not_taken_for_a_known_one() {
    let kind = 0x20 | KIND_STRUCT;
    let error = Btf::parse(int().with("x", kind << 24, 0, &[]).bytes()).err();
    let error = error.expect("an unknown kind").to_string();
    assert!(error.contains("BTF kind 36 is not known"), "{error}");
}

#[test]
fn without_a_layout_the_unknown_kind_is_named() {
    let made = int().with_unknown().with_struct("sock", false, &["family"]);
    let error = Btf::parse(made.bytes()).err().expect("an unknown kind");
    assert!(error.to_string().contains("BTF kind 23"), "{error}");
    // So is one that the layout does not reach.
    let made = int().with("x", 24 << 24, 0, &[]).with_layout();
    let error = Btf::parse(made.bytes()).err().expect("an unknown kind");
    assert!(error.to_string().contains("BTF kind 24"), "{error}");
}

#[test]
fn a_structure_may_have_more_members_than_sixteen_bits_count() {
    let names: Vec<String> = (0..70_000).map(|i| format!("m{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let made = int()
        .with_struct("big", false, &names)
        .with_struct("behind", false, &["x"]);
    let btf = Btf::parse(made.bytes()).unwrap();
    assert_eq!(btf.offset("big", "m69999"), Some(4 * 69_999));
    assert_eq!(btf.size("behind"), Some(4));
}

#[test]
fn what_is_cut_is_refused() {
    let whole = int().with_struct("s", false, &["a"]).with_layout().bytes();
    for length in 0..whole.len() {
        assert!(Btf::parse(whole[..length].to_vec()).is_err(), "{length}");
    }
    // A header that ends beyond the file, or before its own fields.
    for header in [whole.len() as u32 + 1, 8, u32::MAX] {
        let mut wrong = whole.clone();
        wrong[4..8].copy_from_slice(&header.to_ne_bytes());
        assert!(Btf::parse(wrong).is_err(), "{header}");
    }
}

/// What is written for the loader is read as it was meant.
#[test]
fn what_is_left_of_it_for_the_loader_keeps_its_ids() {
    let made = int()
        .with_unknown()
        .with("probe", KIND_TYPEDEF << 24, VOID, &[])
        .with("other", KIND_TYPEDEF << 24, VOID, &[])
        .with_layout();
    let btf = Btf::parse(made.bytes()).unwrap();
    let named = btf.named(|name| name == "probe");
    assert_eq!(named[0].id, 3);
    let sparse = Btf::parse(sparse(&named)).unwrap();
    assert!(sparse.names("probe") && !sparse.names("other"));
    assert_eq!(sparse.named(|_| true)[0].id, 3);
}
