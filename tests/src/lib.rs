//! The lab: real proxies, real upstreams, injected faults, and the truth about each failed response.
//!
//! A scenario (one file per row under `rows`) starts real software in network namespaces of its
//! own, injects one fault, sends requests whose paths carry a unique id, and says in advance or
//! from sources of its own (an application's log, a packet capture, the proxy's log) what the
//! verdict for each of them has to be. The judge joins that with what why502 said.

pub mod agent;
pub mod bpf;
#[path = "../../agent/src/cause.rs"]
pub mod cause;
pub mod certificate;
pub mod cgroup;
pub mod client;
pub mod collector;
pub mod confined;
pub mod container;
pub mod expect;
pub mod journal;
pub mod judge;
pub mod keeper;
#[path = "../../agent/src/sources/cluster/tests/server.rs"]
pub mod kubernetes;
pub mod ledger;
pub mod matrix;
pub mod names;
pub mod netns;
pub mod packets;
pub mod panels;
pub mod pcap;
pub mod process;
pub mod prometheus;
pub mod relay;
pub mod report;
pub mod rows;
pub mod run;
pub mod software;
pub mod upstream;
pub mod wait;
pub mod without;
