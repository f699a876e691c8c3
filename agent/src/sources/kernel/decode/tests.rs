//! Records as the kernel half writes them.

use zerocopy::{FromZeros as _, IntoBytes as _};

use super::*;

#[test]
fn a_client_that_the_proxy_wrote_to_first_is_no_upstream() {
    let told = |change: &dyn Fn(&mut abi::Attempt)| {
        let mut record = abi::Attempt::new_zeroed();
        record.header.kind = kind::ATTEMPT;
        record.flow.ends.family = 2;
        record.flow.ends.local_port = 80;
        change(&mut record);
        let beside = Beside {
            reasons: &[],
            spoken: &|_| false,
            listened: &|ends| ends.local_port == 80,
        };
        matches!(
            super::record(record.as_bytes(), beside),
            Some(Record::Signal(_))
        )
    };
    assert!(!told(&|_| {}));
    assert!(told(&|record| record.flow.ends.local_port = 40_000));
    assert!(told(&|record| record.flow.connected_ns = 1));
    assert!(told(&|record| record.flow.ends.family = AF_UNIX));
}

/// Whether the proxy had read the end of file or was told of it otherwise.
#[test]
fn a_head_that_was_cut_short_is_told_from_one_that_was_refused() {
    let told = |answer: &[u8], fin_ns: u64, end: u8| {
        let mut record = abi::Attempt::new_zeroed();
        record.header.kind = kind::ATTEMPT;
        record.end = end;
        record.flow.fin_ns = fin_ns;
        record.flow.ends.family = 2;
        record.flow.received = answer.len() as u32;
        record
            .flow
            .response
            .copy_from_slice(&answer[..abi::RESPONSE]);
        record.flow.response_size = abi::RESPONSE as u16;
        record.answer[..answer.len()].copy_from_slice(answer);
        record.answer_len = abi::ANSWER as u32;
        let beside = Beside {
            reasons: &[],
            spoken: &|_| false,
            listened: &|_| false,
        };
        let attempt = attempt_ended(&record, beside);
        (attempt.end, attempt.fault)
    };
    let cut = b"HTTP/1.1 200 OK\r\nContent-Le";
    let whole = b"HTTP/1.1 200 OK\r\n\r\n";
    let closed = (End::PeerClosed, Some(HeadFault::Cut));
    assert_eq!(told(cut, 1, end::ANSWERED), closed);
    assert_eq!(told(cut, 0, end::PEER_CLOSED), closed);
    assert_eq!(
        told(cut, 0, end::ANSWERED),
        (End::Answered, Some(HeadFault::Cut))
    );
    assert_eq!(told(whole, 1, end::PEER_CLOSED), (End::Answered, None));
}
