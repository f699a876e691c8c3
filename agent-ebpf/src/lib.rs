//! Every type that crosses the boundary between the probes and the agent.
//!
//! Plain integers and byte arrays, `#[repr(C)]`, no padding (zerocopy's derives refuse it). Both
//! halves are built together, so the layout needs no version.
#![cfg_attr(target_arch = "bpf", no_std)]

mod places;
mod plaintext;
pub mod records;
mod values;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub use places::{bucket_of, spoken};
pub use plaintext::{PLAINTEXT, Told, told};
pub use values::*;

macro_rules! abi {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* pub $field: $type,)* }

        // SAFETY: plain integers and byte arrays without padding: any bytes are a value.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    )*};
}

/// Bytes kept of a request's or response's beginning.
pub const HEAD: usize = 64;
/// Bytes kept of an upstream's answer: a status line's beginning.
pub const RESPONSE: usize = 16;
/// Bytes of an answer read when the proxy refuses it: most servers' heads are shorter.
pub const ANSWER: usize = 256;
/// Bytes of the downstream's request read when an exchange fails, to find its Host header.
pub const REQUEST: usize = 512;
/// Threads whose state is in an array.
pub const SLOTS: u32 = 256;
/// Buckets of slots for the state of sockets, and slots in each: 4096 sockets of each kind.
pub const BUCKETS: u32 = 1024;
pub const WAYS: usize = 4;
/// Slots for connections that are half joined, and how many each holds.
pub const JOIN_SLOTS: u32 = 1024;
pub const JOIN_WAYS: usize = 4;
/// Slots for resets that kernels here have sent and that have not arrived yet: 56 kB.
pub const RESET_SLOTS: u32 = 1024;
/// Slots for clients whose idle connection a proxy has closed: 72 kB.
pub const LATE_SLOTS: u32 = 1024;
/// Slots for upstreams that have answered HTTP with HTTP: 8 kB.
pub const SPOKEN_SLOTS: u32 = 1024;
/// Thread ids with a byte of their own in `WATCHED`; above, the slower look-up serves.
pub const WATCHED_THREADS: u32 = 1 << 20;
/// Thread ids in one entry of `WATCHED`.
pub const WATCHED_BLOCK: usize = 64;
/// `sockaddr_un.sun_path`.
pub const PATH: usize = 108;
/// `task_struct.comm`.
pub const COMM: usize = 16;

abi! {
    /// Offsets within the running kernel's structures, from its BTF. `u32::MAX`: the field is not there.
    pub struct Layout {
        pub skc_family: u32,
        pub skc_state: u32,
        pub skc_daddr: u32,
        pub skc_rcv_saddr: u32,
        pub skc_v6_daddr: u32,
        pub skc_v6_rcv_saddr: u32,
        pub skc_dport: u32,
        pub skc_num: u32,
        /// `ABSENT` also where no probe can have a cookie made (before 5.12): then a socket's
        /// identity is its address, and nothing tells one that was freed from the next one there.
        pub skc_cookie: u32,
        pub skc_net: u32,
        pub net_inum: u32,
        pub net_somaxconn: u32,
        pub net_max_syn_backlog: u32,
        pub net_syncookies: u32,
        pub sk_socket: u32,
        pub sk_type: u32,
        pub sk_err: u32,
        pub sk_drops: u32,
        pub sk_shutdown: u32,
        pub sk_ack_backlog: u32,
        pub sk_max_ack_backlog: u32,
        pub sk_receive_queue_len: u32,
        pub inet_sport: u32,
        pub accept_head: u32,
        pub request_next: u32,
        pub request_sk: u32,
        pub snd_una: u32,
        pub write_seq: u32,
        pub copied_seq: u32,
        pub rcv_nxt: u32,
        pub snd_wnd: u32,
        pub srtt_us: u32,
        pub lsndtime: u32,
        pub lrcvtime: u32,
        pub total_retrans: u32,
        pub bytes_sent: u32,
        pub bytes_received: u32,
        pub bytes_acked: u32,
        pub unix_addr: u32,
        pub unix_peer: u32,
        pub unix_listener: u32,
        pub unix_address_len: u32,
        pub unix_address_name: u32,
        pub socket_file: u32,
        pub socket_sk: u32,
        pub file_private_data: u32,
        pub task_pid: u32,
        pub task_tgid: u32,
        pub task_real_parent: u32,
        pub task_exit_code: u32,
        pub task_signal: u32,
        pub task_files: u32,
        pub task_flags: u32,
        pub task_state: u32,
        /// `ABSENT` where the current task cannot be had typed (before 5.11).
        pub task_nvcsw: u32,
        /// The same, for reads through the helper.
        pub task_nvcsw_untyped: u32,
        pub task_stack: u32,
        /// Where in a task's stack the registers of its system call are; `ABSENT` where a helper
        /// finds them (from 5.15).
        pub stack_regs: u32,
        pub task_sum_exec_runtime: u32,
        pub task_nsproxy: u32,
        pub nsproxy_mnt_ns: u32,
        pub mnt_namespace_inum: u32,
        pub signal_live: u32,
        pub files_fdt: u32,
        pub fdtable_fd: u32,
        pub fdtable_max_fds: u32,
        pub siginfo_si_code: u32,
        pub skb_head: u32,
        pub skb_network_header: u32,
        /// The value of `SKB_DROP_REASON_NETFILTER_DROP`.
        pub netfilter_drop: u32,
        pub inode_ino: u32,
        pub socket_inode: u32,
        /// Not offsets: which argument of `tcp_recvmsg` has the flags, and how many it has.
        pub tcp_recvmsg_flags: u32,
        pub tcp_recvmsg_arguments: u32,
        /// Not an offset: 1 if `mark_victim` hands over a task, not its id.
        pub mark_victim_task: u32,
        /// Not an offset: 1 if `tcp_send_reset` tells its reason (from 6.10).
        pub reset_reasons: u32,
        /// Not an offset: 1 if the close of a descriptor is seen, so that ends wait for their thread.
        pub closes_seen: u32,
        /// Offsets within tracepoints' records, from their `format`.
        pub close_fd: u32,
        pub connect_ret: u32,
        pub listen_ret: u32,
        pub victim_pid: u32,
        /// Not an offset: 1 if sends or receives are seen without types, so that TCP sockets are to have
        /// their cookies before.
        pub untyped: u32,
        /// Not an offset: ticks of the kernel's clock in a second where the ends of connections from
        /// elsewhere are told, else 0.
        pub second_ticks: u32,
        /// Not an offset: 1 where OpenSSL's `SSL_write` is probed for the status of responses in TLS.
        pub tls_status: u32,
    }

    /// Both ends of a socket. TCP: addresses in network order, IPv4 in the first four bytes; ports in
    /// host order. Unix: `path` is the peer's (upstream) name and `path_len` its length.
    pub struct Ends {
        pub family: u16,
        pub remote_port: u16,
        pub local_port: u16,
        pub path_len: u16,
        pub remote: [u8; 16],
        pub local: [u8; 16],
        pub path: [u8; PATH],
        pub netns: u32,
    }

    /// The upstream's process has read from a connection.
    pub struct Read {
        /// When, for the last time.
        pub ns: u64,
        /// The `task_struct` of the thread that did; believed only if its id is `tid`.
        pub task: u64,
        pub tgid: u32,
        pub tid: u32,
    }

    /// What is kept of one connection of a proxy, keyed by the address of its `struct sock`.
    pub struct Flow {
        pub cookie: u64,
        /// Upstream: the downstream it works for. Downstream: its latest attempt.
        pub link_sk: u64,
        pub link_cookie: u64,
        /// Upstream: the failed attempt that this one follows.
        pub retry_of: u64,
        /// Downstream, where the status in TLS is asked for: the failed attempt that was noticed last, how
        /// many were since anything was sent.
        pub noticed_cookie: u64,
        pub noticed: u32,
        /// `tls` flags.
        pub tls: u16,
        /// Bytes in `response`: of the first read alone.
        pub response_size: u16,
        /// Upstream, in TLS: bytes to come of the record that was read last, and how many records of
        /// application data since the request.
        pub record_left: u32,
        pub records: u32,
        /// When the current attempt began; until then, of one older than the agent: when it last
        /// carried anything, 0 if unknown.
        pub begun_ns: u64,
        pub connected_ns: u64,
        pub request_ns: u64,
        pub last_receive_ns: u64,
        pub last_send_ns: u64,
        /// Idle time before the current request (of the first: since the connect), and the longest
        /// that was followed by one.
        pub idle_ns: u64,
        pub longest_reuse_ns: u64,
        pub fin_ns: u64,
        pub reset_ns: u64,
        /// TCP: the upstream's own end on this host. Downstream: itself, if the client is a watched proxy.
        pub peer_sk: u64,
        pub peer_cookie: u64,
        pub peer_close_ns: u64,
        /// Where in the proxy's memory the current request begins.
        pub head_ptr: u64,
        /// Upstream: where the answer to it begins.
        pub answer_ptr: u64,
        /// TCP: the listener connected to.
        pub listener_sk: u64,
        pub listener_cookie: u64,
        pub listener_drops: u32,
        /// Of the socket's retransmissions, those before the current request.
        pub retransmits_before: u32,
        pub tgid: u32,
        pub tid: u32,
        /// Upstream: the downstream's ordinal.
        pub link_ordinal: u32,
        /// Requests so far, the current one included.
        pub ordinal: u32,
        pub request_seq: u32,
        pub sent: u32,
        pub received: u32,
        pub fin_una: u32,
        pub fin_write_seq: u32,
        pub peer_close_tgid: u32,
        /// The upstream's `copied_seq` when it closed: how far its application had read.
        pub peer_close_copied: u32,
        /// What had come by then and was not read.
        pub peer_close_unread: u32,
        /// How the upstream's kernel sent its reset (`peer_reset`), and the kernel's reason plus one
        /// where it tells.
        pub peer_reset: u16,
        pub peer_reset_reason: u16,
        pub send_errno: i32,
        /// Bytes in `head`; 0 while they are only at `head_ptr`.
        pub head_size: u32,
        /// Bytes at `head_ptr`.
        pub head_len: u32,
        /// TCP: the upstream's own end on this host as it names itself; the namespace is 0 where
        /// none was seen.
        pub peer_netns: u32,
        pub peer_family: u16,
        pub peer_port: u16,
        pub peer_address: [u8; 16],
        /// How the socket's end, which is being handled, ends the attempt, and its errno; 0: it does not.
        pub ending: u16,
        pub ending_errno: u16,
        pub flags: u16,
        pub role: u8,
        pub order: u8,
        pub head: [u8; HEAD],
        pub response: [u8; RESPONSE],
        pub ends: Ends,
        /// Last, and so in another cache line than what the proxy's thread writes for each request:
        /// the upstream writes it, on another CPU. TCP: taken over from `PEERS` when something ends.
        pub read: Read,
    }

    /// A few slots, in one cache line: which socket has which.
    pub struct Bucket {
        /// Addresses of `struct sock`; 0: free.
        pub sk: [u64; WAYS],
        /// How many insert into it now.
        pub lock: u64,
        /// Whether a socket of this bucket has ever been put into the hash map instead.
        pub spilled: u64,
        pub pad: [u64; 2],
    }

    /// A watched thread.
    pub struct Thread {
        /// The downstream it read last.
        pub downstream_sk: u64,
        pub downstream_cookie: u64,
        /// The failed attempt it ended last, until it begins another or answers.
        pub failed_cookie: u64,
        pub failed_link_sk: u64,
        pub failed_link_cookie: u64,
        /// The attempt it closed last whose answer had begun, until it goes on with anything else.
        pub refused_cookie: u64,
        pub stash_sk: u64,
        /// When it read that downstream.
        pub read_ns: u64,
        /// How often it had gone to sleep by then.
        pub read_switches: u64,
        /// The upstream flow it read last.
        pub answered_cookie: u64,
        /// When it last sent anything to a client, and when that was a server error.
        pub sent_ns: u64,
        pub refused_ns: u64,
        pub tgid: u32,
        /// In `SLOTS`: the thread that has this slot.
        pub owner: u32,
        /// The proxy keeps a request's bytes in memory until it has answered: they are read
        /// when something fails, not for every request.
        pub lazy: u32,
        /// Attempts begun since the downstream was last read.
        pub begun: u16,
        /// Downstreams read since the thread last slept: 1 means one, more several.
        pub reads: u16,
        /// What it has handed to its TLS library and not sent yet: how many bytes, the status that they
        /// begin with (0: none), and whether that is one of several streams'.
        pub said_len: u32,
        pub said_status: u16,
        pub said_in_stream: u16,
        /// Its first bytes.
        pub said: [u8; PLAINTEXT],
        /// The upstream flow closed last with bytes of a response read, before the downstream was answered.
        pub stash: Flow,
    }

    /// Facts read from the sockets at the moment of a record.
    pub struct Sample {
        /// CPU time so far of the thread that read the request.
        pub reader_cpu_ns: u64,
        /// Its `task_struct.__state`.
        pub reader_state: u32,
        pub una: u32,
        pub write_seq: u32,
        pub retransmits: u32,
        pub window: u32,
        pub srtt_us: u32,
        pub queue_length: u32,
        pub queue_limit: u32,
        pub queue_drops: u32,
        /// Packets to this upstream that a filter on this host dropped since the attempt began.
        pub filter_drops: u32,
        pub known: u8,
        pub accepted: u8,
        pub read: u8,
        pub state: u8,
        /// Initial sequence numbers, the proxy's and the upstream's; where ends of connections from elsewhere
        /// are told as well.
        pub iss: u32,
        pub irs: u32,
        pub pad: u32,
    }

    pub struct Header {
        pub kind: u16,
        pub pad: u16,
        pub tid: u32,
        pub at: u64,
        pub tgid: u32,
        pub pad2: u32,
    }

    pub struct Attempt {
        pub header: Header,
        pub flow: Flow,
        pub sample: Sample,
        /// When the ending thread last read the attempt's downstream; 0 if it read another since.
        pub downstream_read_ns: u64,
        pub errno: i32,
        pub end: u8,
        pub downstream_state: u8,
        pub pad: u16,
        /// The downstream's ends and the beginning of its request.
        pub downstream_ends: Ends,
        pub downstream_head: [u8; HEAD],
        /// Of an answer that was refused, what still lies where it was read.
        pub answer: [u8; ANSWER],
        pub answer_len: u32,
        pub pad2: u32,
    }

    pub struct Response {
        pub header: Header,
        pub flow: Flow,
        pub status: u16,
        pub has_attempt: u8,
        pub attempt_end: u8,
        pub request_len: u32,
        pub adjacent: u64,
        pub attempt: Flow,
        pub sample: Sample,
        pub request: [u8; REQUEST],
    }

    /// A thread began another attempt for the exchange of the failed one.
    pub struct Retried {
        pub header: Header,
        pub failed: u64,
    }

    /// The end of a flow whose attempt had failed.
    pub struct Closed {
        pub header: Header,
        pub flow: Flow,
        pub sample: Sample,
    }

    pub struct Idle {
        pub header: Header,
        pub ends: Ends,
        pub cookie: u64,
        pub idle_ns: u64,
        pub longest_reuse_ns: u64,
        pub ordinal: u32,
        pub by_upstream: u8,
        pub reset: u8,
        pub pad: u16,
    }

    pub struct Stall {
        pub header: Header,
        pub ends: Ends,
        pub waited_ns: u64,
    }

    pub struct Exit {
        pub header: Header,
        pub parent: u32,
        pub code: u32,
        pub comm: [u8; COMM],
        pub was_proxy: u32,
        pub pad: u32,
    }

    pub struct SignalRecord {
        pub header: Header,
        pub comm: [u8; COMM],
        pub to: u32,
        pub to_parent: u32,
        pub signal: u32,
        pub by_kernel: u32,
    }

    pub struct Oom {
        pub header: Header,
        pub pid: u32,
        pub pad: u32,
    }

    /// A watched program was executed, or a watched process forked a worker.
    pub struct Proxy {
        pub header: Header,
        pub comm: [u8; COMM],
        pub pid: u32,
        pub pad: u32,
    }

    /// A socket began or ended to listen (Unix: began only).
    pub struct Listen {
        pub header: Header,
        pub sk: u64,
        pub cookie: u64,
        pub family: u16,
        pub port: u16,
        pub gone: u32,
    }

    /// The end of a connection that a process of this host took from elsewhere.
    pub struct FarEnd {
        pub header: Header,
        pub ends: Ends,
        pub cookie: u64,
        /// Ends that were left out for their number since the probes were loaded.
        pub left_out: u64,
        /// Bytes that came and were not read.
        pub unread: u32,
        /// Ticks since the last data either way, and since the caller's last.
        pub idle_ticks: u32,
        pub waited_ticks: u32,
        /// Of the process whose end it is, where it is that.
        pub exit_code: u32,
        /// Initial sequence numbers, the caller's and this host's.
        pub caller_isn: u32,
        pub own_isn: u32,
        pub accepted: u8,
        /// The last data was the caller's.
        pub unanswered: u8,
        pub by_caller: u8,
        pub reset: u8,
        pub exiting: u8,
        pub pad: [u8; 3],
    }

    /// Key of `FILTERED`: where a dropped packet was going.
    pub struct Destination {
        pub address: [u8; 16],
        pub family: u16,
        pub port: u16,
        /// The sender's: with the rest it tells connections apart.
        pub from_port: u16,
    }

    /// Value of `FILTERED`.
    pub struct Filtered {
        pub last_ns: u64,
        pub count: u64,
    }

    /// Both ends of a TCP packet.
    pub struct Way {
        pub to: Destination,
        pub from: [u8; 16],
        pub pad: u16,
    }

    /// A reset that a kernel on this host sent, as an answer to a packet on this way.
    pub struct SentReset {
        pub at: u64,
        pub way: Way,
        /// The kernel's number for why, plus one; 0 where it does not tell.
        pub reason: u64,
    }

    /// A proxy closed the idle connection of a client whose packets come on this way.
    pub struct Left {
        pub at: u64,
        pub way: Way,
        pub netns: u32,
        pub tgid: u32,
        pub requests: u32,
        /// Since the proxy's last data.
        pub idle_ticks: u32,
        /// The sequence number of its FIN.
        pub fin: u32,
        pub pad: u32,
    }

    /// A client's data met that close.
    pub struct Late {
        pub header: Header,
        /// When the proxy closed.
        pub closed: u64,
        pub way: Way,
        pub netns: u32,
        pub requests: u32,
        pub idle_ticks: u32,
        /// Bytes of it, at least.
        pub data: u32,
        /// The client had received the FIN before.
        pub knew: u8,
        pub pad: [u8; 7],
    }

    /// Key of `LISTENERS`.
    pub struct ListenerKey {
        pub netns: u32,
        pub family: u16,
        pub port: u16,
        pub address: [u8; 16],
    }

    /// Key of `UNIX_LISTENERS`: what a proxy passes to connect(), in its mount namespace.
    pub struct UnixKey {
        pub mntns: u32,
        pub path: [u8; PATH],
    }

    pub struct ListenerValue {
        pub sk: u64,
        pub cookie: u64,
        /// The longest queue seen at a connect since the agent last asked.
        pub peak: u32,
        /// Connects refused or dropped for a full queue, as far as seen.
        pub overflows: u32,
    }

    /// The proxy's end of a connection whose other end is awaited: its sequence numbers, and its socket.
    pub struct Join {
        pub key: u64,
        pub sk: u64,
    }

    /// A cache line of them, the newest first.
    pub struct Joins {
        pub newest: [Join; JOIN_WAYS],
    }

    /// Value of `PEERS`: the proxy's end of a connection, by the upstream's end.
    pub struct Peer {
        pub sk: u64,
        pub cookie: u64,
        pub read: Read,
    }

    /// One open socket of one process, as the `task_file` iterator sees it.
    pub struct Socket {
        pub tgid: u32,
        /// `net.core.somaxconn` of its network namespace; 0 where it cannot be read.
        pub somaxconn: u32,
        /// `net.ipv4.tcp_max_syn_backlog`; `u32::MAX` where this or the next cannot be read.
        pub max_syn_backlog: u32,
        /// `net.ipv4.tcp_syncookies`.
        pub syncookies: u32,
        pub sk: u64,
        pub cookie: u64,
        pub peer_sk: u64,
        pub inode: u64,
        pub snd_una: u32,
        pub write_seq: u32,
        pub rcv_nxt: u32,
        pub copied_seq: u32,
        pub queue_length: u32,
        pub queue_limit: u32,
        pub state: u8,
        pub own_path: u8,
        pub kind: u16,
        pub ends: Ends,
        pub comm: [u8; COMM],
        /// TCP: ticks of the kernel's clock since it last sent or received data; `u32::MAX`: not known.
        pub idle_ticks: u32,
    }
}
