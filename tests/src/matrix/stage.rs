//! One pair under way: its namespaces, its proxy between client and upstream, its requests.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::beside::{self, Beside, Second};
use super::causes::Cause;
use super::draw::Draw;
use super::failures;
use super::proxies::{Again, Own, PORT, Proxy, Route, Target, Wanted};
use super::upstreams::{Act, Manner, Server, Speaks, Upstream};
use crate::client::{self, Request, Timed};
use crate::confined::confined;
use crate::expect::Expect;
use crate::ledger::Sent;
use crate::netns::NetNs;
use crate::packets::Everything;
use crate::relay::{FAR, NEAR, Relay};
use crate::run::Run;
use crate::software::{AppLog, Scripted};
use crate::upstream::Mode;

/// Where the fault is, and where all is well.
pub(in crate::matrix) const FAULT: &str = "/fault";
pub(in crate::matrix) const WELL: &str = "/well";
const FAULT_PORT: u16 = 9000;
const WELL_PORT: u16 = 9001;
const SECOND_PORT: u16 = 9002;
const OTHER_PORT: u16 = 9003;
const CONNECT: Duration = Duration::from_secs(1);
/// Whatever status the proxy chooses.
pub(in crate::matrix) const ANY: &[u16] = &[500, 502, 503, 504];

/// What is called an upstream and is none: a client, say.
pub(in crate::matrix) fn strangers<'a>(
    lines: impl Iterator<Item = &'a Value>,
) -> BTreeSet<&'a str> {
    let upstreams = lines.filter_map(|line| line["upstream"]["address"].as_str());
    upstreams.filter(|address| !is_server(address)).collect()
}

fn is_server(address: &str) -> bool {
    let port = address
        .rsplit_once(':')
        .and_then(|(_, port)| port.parse().ok());
    let known = |port: u16| (FAULT_PORT..=OTHER_PORT).contains(&port);
    address.starts_with("unix:") || port.is_none_or(known)
}

pub(in crate::matrix) struct Stage<'a> {
    pub(in crate::matrix) run: Run,
    pub(in crate::matrix) proxy: &'a Proxy,
    pub(in crate::matrix) cause: &'a Cause,
    pub(in crate::matrix) upstream: Option<&'a Upstream>,
    pub(in crate::matrix) draw: Draw,
    /// How many failures are wanted.
    pub(in crate::matrix) wanted: usize,
    pub(in crate::matrix) near: Arc<NetNs>,
    far: Option<(NetNs, Relay)>,
    /// The software that the requests fail at, where there is any.
    pub(in crate::matrix) server: Option<&'static str>,
    /// Nothing goes on beside the fault, which would be hurt by it.
    pub(in crate::matrix) alone: bool,
    /// Whether the proxy heeds files' permissions, though it is root's.
    pub(in crate::matrix) confined: bool,
    /// What the proxy decides by itself about the requests that fail.
    pub(in crate::matrix) own: Option<Own>,
    /// What the proxy sends and is sent, where it is captured.
    pub(in crate::matrix) packets: Option<Everything>,
    beside: Option<Beside>,
}

impl<'a> Stage<'a> {
    pub(in crate::matrix) fn set(
        run: Run,
        proxy: &'a Proxy,
        cause: &'a Cause,
        upstream: Option<&'a Upstream>,
        mut draw: Draw,
        wanted: usize,
    ) -> Result<Stage<'a>> {
        draw.again = draw.again.min(proxy.again);
        Ok(Stage {
            run,
            proxy,
            cause,
            upstream,
            draw,
            wanted,
            near: Arc::new(NetNs::new()?),
            far: None,
            server: None,
            alone: false,
            confined: false,
            own: None,
            packets: None,
            beside: None,
        })
    }

    /// Puts the upstream as far away as was drawn, `at_least` so far.
    pub(in crate::matrix) fn apart(&mut self, at_least: Duration) -> Result<()> {
        let drawn = self.draw.distance.unwrap_or(Duration::ZERO);
        let distance = drawn.max(at_least);
        if distance > Duration::ZERO {
            self.draw.distance = Some(distance);
            let far = NetNs::new()?;
            let relay = Relay::join(&self.near, &far, distance)?;
            self.far = Some((far, relay));
        }
        Ok(())
    }

    /// Loses every packet that opens a connection to the fault's upstream.
    pub(in crate::matrix) fn lose_connects(&self) {
        if let Some((_, relay)) = &self.far {
            relay.lose_syns_to(FAULT_PORT);
        }
    }

    /// The fault's upstream on the proxy's own host, where another host can call it, too.
    pub(in crate::matrix) fn here(&self) -> Target {
        let address = SocketAddr::new(NEAR.parse().expect("an address"), FAULT_PORT);
        Target::Tcp(address)
    }

    /// The other host, where what that upstream answers never arrives: what is opened from there stays
    /// half open.
    pub(in crate::matrix) fn deaf(&self) -> Option<&NetNs> {
        let (far, relay) = self.far.as_ref()?;
        relay.lose_answers_from(FAULT_PORT);
        Some(far)
    }

    /// How many packets of TCP have come to the far host: of calls to the upstream.
    pub(in crate::matrix) fn calls(&self) -> Result<u64> {
        let (far, _) = self.far.as_ref().context("there is no far host")?;
        let text = far.enter(|| Ok(std::fs::read_to_string("/proc/thread-self/net/snmp")?))?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = lines.next().zip(lines.next()).context("no count of TCP")?;
        let mut both = names.split(' ').zip(values.split(' '));
        let (_, count) = both
            .find(|(name, _)| *name == "InSegs")
            .context("no InSegs")?;
        Ok(count.parse()?)
    }

    /// Puts a server that does what it is asked at the fault's place.
    pub(in crate::matrix) fn serve_there(&mut self) -> Result<Target> {
        let (ns, to) = self.there();
        let server = Scripted::start(&self.run, ns, "there", &to.to_string(), Mode::Asked, 128)?;
        self.run.hold(server);
        Ok(to)
    }

    /// Loses what is said to and by the fault's upstream, not what opens connections.
    pub(in crate::matrix) fn lose_words(&self) {
        if let Some((_, relay)) = &self.far {
            relay.lose_words_of(FAULT_PORT);
        }
    }

    /// The upstream's kernel keeps little of what its application does not read.
    pub(in crate::matrix) fn narrow(&self) -> Result<()> {
        let (ns, _) = self.there();
        ns.sh("echo 4096 8192 8192 > /proc/sys/net/ipv4/tcp_rmem")
            .map(drop)
    }

    /// The proxy's own host drops them.
    pub(in crate::matrix) fn filter_connects(&self) -> Result<()> {
        let rule = format!("iptables -A OUTPUT -p tcp --dport {FAULT_PORT} --syn -j DROP");
        self.near.sh(&rule).map(drop)
    }

    /// Where the upstream lives, and its address.
    pub(in crate::matrix) fn there(&self) -> (&NetNs, Target) {
        let (ns, host) = match &self.far {
            Some((far, _)) => (far, FAR),
            None => (&*self.near, "127.0.0.1"),
        };
        let address = SocketAddr::new(host.parse().expect("an address"), FAULT_PORT);
        (ns, Target::Tcp(address))
    }

    /// A Unix socket's path that workers of another user can reach.
    pub(in crate::matrix) fn unix(&self) -> Target {
        Target::Unix(self.run.folder.join("fault.sock"))
    }

    /// Starts the upstream of this pair.
    pub(in crate::matrix) fn serve(&mut self, manner: &Manner) -> Result<(Server, Target)> {
        let upstream = self.upstream.expect("a cause that asks an upstream");
        let (ns, to) = self.there();
        let server = (upstream.start)(&self.run, ns, &to, manner)?;
        self.server = Some(upstream.name);
        Ok((server, to))
    }

    /// Starts the proxy, with a second upstream where all is well.
    pub(in crate::matrix) fn front(&mut self, to: &Target) -> Result<()> {
        self.front_for(to, self.draw.patience)
    }

    pub(in crate::matrix) fn front_for(&mut self, to: &Target, patience: Duration) -> Result<()> {
        let well = self.serve_beside("well", WELL_PORT, Mode::Asked)?;
        let speaks = self.upstream.map_or(Speaks::Http, |u| u.speaks);
        let own = self.own;
        let route = |folder, to, or| Route {
            folder,
            own: own.filter(|_| folder == FAULT),
            speaks: if folder == FAULT {
                speaks
            } else {
                Speaks::Http
            },
            to,
            or,
        };
        let again = self.draw.again;
        let second = Second::draw(&mut self.draw, self.cause.name, again, patience);
        let at = |port| Target::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        let mut other = None;
        match second.server {
            beside::Server::Nobody => {}
            beside::Server::NeverAccepts => {
                self.serve_beside("second", SECOND_PORT, Mode::NeverAccept)?;
            }
            beside::Server::NobodyAndOther => {
                other = Some(self.serve_beside("other", OTHER_PORT, Mode::Answer)?);
            }
        }
        let wanted = Wanted {
            routes: vec![
                route(FAULT, to.clone(), None),
                route(WELL, well, None),
                route(beside::FOLDER, at(SECOND_PORT), other),
            ],
            connect: CONNECT,
            patience,
            workers: self.draw.workers,
            again: self.draw.again,
            checks: self.draw.checks,
        };
        let start = || (self.proxy.start)(&self.run, &self.near, &wanted);
        let proxy = match self.confined {
            true => confined(start)?,
            false => start()?,
        };
        self.run.hold(proxy);
        if self.alone {
            return Ok(());
        }
        self.beside = Some(Beside::start(
            Arc::clone(&self.near),
            self.to(),
            Arc::clone(&self.run.ledger),
            self.draw.fork(),
            second,
            self.wanted,
        ));
        Ok(())
    }

    /// A server that has nothing to do with the pair's own fault.
    fn serve_beside(&mut self, name: &str, port: u16, mode: Mode) -> Result<Target> {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let server = Scripted::start(&self.run, &self.near, name, &to.to_string(), mode, 128)?;
        self.run.hold(server);
        Ok(Target::Tcp(to))
    }

    /// Waits until what goes on beside the fault is over.
    pub(in crate::matrix) fn calm(&mut self) -> Result<()> {
        self.beside.take().map_or(Ok(()), Beside::end)
    }

    /// Each failure takes seconds, and more where it is tried again.
    pub(in crate::matrix) fn in_few_crowds(&mut self) {
        self.draw.crowd = self.draw.crowd.max(self.wanted.div_ceil(2));
    }

    /// The proxy tries no request again that it has sent: another try would not meet the fault.
    pub(in crate::matrix) fn tries_connects_alone(&mut self) {
        self.draw.again = self.draw.again.min(Again::Connects);
    }

    /// Puts the pair's upstream with so many workers, as far away as was drawn, behind the proxy; its log.
    pub(in crate::matrix) fn ask_of_workers(&mut self, workers: u32) -> Result<AppLog> {
        self.apart(Duration::ZERO)?;
        let manner = Manner {
            workers,
            limit: None,
        };
        let (server, to) = self.serve(&manner)?;
        self.front(&to)?;
        self.run.hold(server.running);
        Ok(server.log)
    }

    pub(in crate::matrix) fn to(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], PORT))
    }

    /// The truth about a request that fails for this cause.
    pub(in crate::matrix) fn truth(&self) -> Expect {
        Expect::verdict(self.cause.name, ANY, self.cause.name)
    }

    /// What the pair's upstream is asked.
    pub(in crate::matrix) fn ask(&self, act: Act) -> String {
        let ask = self.upstream.and_then(|upstream| (upstream.ask)(act));
        ask.expect("an upstream that can do what the cause needs")
    }

    /// A request to the fault, drawn.
    fn request(&mut self, path: String, query: &str) -> Request {
        let request = match self.draw.coin() {
            true => Request::get(path),
            false => Request {
                body: self.draw.body(),
                ..Request::post(path)
            },
        };
        request.query(query)
    }

    /// A request that fails for this cause.
    pub(in crate::matrix) fn failing(&mut self, query: &str) -> Request {
        let path = self.run.path(FAULT);
        self.failing_at(path, query)
    }

    fn failing_at(&mut self, path: String, query: &str) -> Request {
        let request = self.request(path, query);
        let truth = self.truth();
        self.run.expecting(request, &truth)
    }

    /// Where the upstream can, it answers some requests well, and so is known to the proxy.
    pub(in crate::matrix) fn introduce(&mut self) -> Result<()> {
        let answer = self
            .upstream
            .and_then(|upstream| (upstream.ask)(Act::Answer));
        if let Some(answer) = answer {
            let well = (0..self.draw.crowd)
                .map(|_| Request::get(self.run.path(FAULT)).query(&answer))
                .collect();
            self.crowd(well)?;
        }
        Ok(())
    }

    /// One request by itself, after which others are sent that fail; whether it has failed.
    pub(in crate::matrix) fn fail_once(&mut self) -> Result<bool> {
        let request = self.failing("");
        let sent = self.burst(vec![(Duration::ZERO, request)])?;
        Ok(sent.iter().any(Sent::failed))
    }

    /// Requests in the drawn crowds until `wanted` of them have failed, after others that were answered
    /// well.
    pub(in crate::matrix) fn fail(&mut self, query: &str) -> Result<Vec<Sent>> {
        self.fail_together(query, 1)
    }

    /// The same in crowds of so many at least: of fewer at once none fails.
    pub(in crate::matrix) fn fail_together(
        &mut self,
        query: &str,
        least: usize,
    ) -> Result<Vec<Sent>> {
        self.introduce()?;
        self.fail_at_once(query, least)
    }

    /// The same with nothing before.
    pub(in crate::matrix) fn fail_as_it_is(&mut self, query: &str) -> Result<Vec<Sent>> {
        self.fail_at_once(query, 1)
    }

    fn fail_at_once(&mut self, query: &str, least: usize) -> Result<Vec<Sent>> {
        let mut sent = Vec::new();
        loop {
            let missing = failures::missing(&sent, self.wanted);
            if missing == 0 {
                return Ok(sent);
            }
            let count = self.draw.crowd.min(missing).max(least);
            let alike = self.draw.alike.then(|| self.run.path(FAULT));
            let path = |run: &Run| alike.clone().unwrap_or_else(|| run.path(FAULT));
            let requests = (0..count)
                .map(|_| self.failing_at(path(&self.run), query))
                .collect();
            sent.extend(self.crowd(requests)?);
        }
    }

    /// The same with several queries, so many failures in sum.
    pub(in crate::matrix) fn fail_by_turns(&mut self, queries: &[String]) -> Result<()> {
        let wanted = self.wanted;
        self.wanted = wanted.div_ceil(queries.len());
        for query in queries {
            self.fail(query)?;
        }
        self.wanted = wanted;
        Ok(())
    }

    /// Sends these at moments drawn within a few milliseconds, others to another upstream among them.
    pub(in crate::matrix) fn crowd(&mut self, requests: Vec<Request>) -> Result<Vec<Sent>> {
        let spread = Duration::from_millis(8);
        let well = requests.len().div_ceil(2);
        let mut timed: Vec<Timed> = requests
            .into_iter()
            .map(|request| (self.draw.moment(spread), request))
            .collect();
        for _ in 0..well {
            let request = Request::get(self.run.path(WELL));
            timed.push((self.draw.moment(spread), request));
        }
        self.burst(timed)
    }

    pub(in crate::matrix) fn burst(&self, requests: Vec<Timed>) -> Result<Vec<Sent>> {
        let to = self.to();
        let sent = self
            .near
            .traffic(async || Ok(client::burst(to, &self.run.ledger, requests).await))?;
        Ok(sent
            .into_iter()
            .filter(|s| s.path.starts_with(FAULT))
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::strangers;

    #[test]
    fn a_client_is_no_upstream() {
        let line = |address: Value| json!({"upstream": {"address": address}});
        let lines = [
            line(json!("10.9.0.2:9000")),
            line(json!("unix:/tmp/fault.sock")),
            line(Value::Null),
            line(json!("127.0.0.1:41310")),
        ];
        assert_eq!(strangers(lines.iter()), ["127.0.0.1:41310"].into());
    }
}
