//! Who serves what: processes with their ends, signals and states, and listening sockets.

use serde::{Deserialize, Serialize};

use super::{Address, ClosedBy, FlowId, InitialSequenceNumbers, Nanos};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessExit {
    pub pid: u32,
    pub parent: u32,
    /// The signal that ended it, 0 if none.
    pub signal: u8,
    /// The exit status, where it ended by itself.
    pub status: u8,
}

/// A signal sent to a process that serves an upstream, or to that process's parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SignalSent {
    pub signal: u8,
    pub to: u32,
    pub to_parent: u32,
    pub from: u32,
    /// The sender's name.
    pub from_name: String,
    /// The kernel itself made it (a fault, the OOM killer).
    pub by_kernel: bool,
}

/// A process's threads at one moment while the proxy waited for its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessSample {
    pub pid: u32,
    /// The flow that waits for this process.
    pub flow: FlowId,
    /// The thread that read the request.
    pub thread: ThreadSample,
    /// The cgroup spent this long throttled since the last sample, in microseconds; `None` if unknown.
    pub throttled_us: Option<u64>,
    /// The cgroup's freezer holds it.
    pub frozen: bool,
    /// Its control groups could not be asked: it may have been throttled, or be frozen, all the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub throttling_unseen: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub freezing_unseen: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ThreadSample {
    pub thread: u32,
    /// The scheduler's state letter: R, S, D, T, t.
    pub state: char,
    /// On-CPU time so far, in nanoseconds, and time spent runnable but waiting (schedstat).
    pub cpu_ns: u64,
    pub wait_ns: u64,
    /// The system call it sleeps in (`recvfrom`, `futex`, `clock_nanosleep`, …).
    pub syscall: Option<String>,
    /// The other end of the socket it waits on.
    pub socket_peer: Option<Address>,
}

/// Who a process is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub parent: u32,
    pub name: String,
    pub software: Software,
    /// Settings seen on its command line, environment or configuration, by the software's own names.
    pub settings: Vec<(String, String)>,
    /// When it started.
    pub started: Nanos,
    pub netns: u32,
    /// It runs in a SageMaker container (`SAGEMAKER_*` in its environment or `/opt/ml`).
    pub sagemaker: bool,
    #[serde(default, skip_serializing_if = "Home::is_unknown")]
    pub home: Home,
}

/// What a process runs in, as far as its own host says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The container's name; where only its id is known, the first twelve digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// What runs the pod, where its name says so; outside of containers the systemd service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
}

impl Home {
    fn is_unknown(&self) -> bool {
        *self == Home::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Software {
    Nginx,
    Haproxy,
    Envoy,
    Apache,
    Caddy,
    Traefik,
    H2o,
    Varnish,
    Gunicorn,
    Node,
    Uwsgi,
    Uvicorn,
    Puma,
    Tomcat,
    PhpFpm,
    Go,
    /// By its log alone: a program made with it has a name of its own.
    Pingora,
    Other,
}

impl Software {
    /// Software whose parent process watches its workers and kills the slow ones.
    pub fn supervises(self) -> bool {
        matches!(
            self,
            Software::Gunicorn
                | Software::Uwsgi
                | Software::PhpFpm
                | Software::Puma
                | Software::Uvicorn
                | Software::Apache
        )
    }
}

/// A listening socket on this host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listener {
    pub address: Address,
    pub netns: u32,
    pub pid: u32,
    pub length: u32,
    pub limit: u32,
    /// The longest queue since the last such signal.
    pub peak: u32,
    /// `net.core.somaxconn` of the listener's network namespace, where it could be read.
    pub somaxconn: Option<u32>,
    /// When it was first seen listening, for listeners younger than the agent.
    pub since: Option<Nanos>,
    /// It no longer listens.
    pub gone: bool,
}

/// The end of a connection that a process of this host took from elsewhere, as it looks from here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpstreamEnd {
    pub flow: FlowId,
    /// This host's own end, and the caller's as this host sees it.
    pub upstream: Address,
    pub caller: Address,
    /// The caller is what may be another node's proxy.
    pub by: ClosedBy,
    pub reset: bool,
    /// A process had accepted it.
    pub accepted: bool,
    /// Bytes that had come and that no process had read.
    pub unread: u64,
    /// Nothing was sent since the caller's last data.
    pub unanswered: bool,
    /// Since the last data either way, and since the caller's last, in steps of the kernel's clock.
    pub idle_ns: u64,
    pub waited_ns: u64,
    /// How the process ended, where that ended the connection: the signal (0: none), and the status.
    pub exit_signal: Option<u8>,
    pub exit_status: Option<u8>,
    #[serde(default)]
    pub isn: InitialSequenceNumbers,
    /// Who closed it; where the caller did, who listens.
    pub server: Option<Process>,
    /// Ends that were left out for their number since the last that was told.
    pub left_out: u64,
}
