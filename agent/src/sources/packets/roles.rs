//! Learns who passes requests on: from those that came to one server, went on to another, and whose
//! answers came back in the opposite order.
//!
//! Where one address has both servers nothing but time tells the two apart. So only what is clear is
//! learned from: no other request alike is at either server, and what came of the inner one came before
//! the outer one's answer.

use std::collections::VecDeque;

use crate::signal::End;

use super::exchange::{Ended, Exchange};
use super::flow::Flow;
use super::{AT_ONCE, Packets, UNANSWERED};

/// Requests looked at on one connection.
const FIRST: u32 = 8;
/// Requests whose answers are waited for.
const WAITING: usize = 512;

/// One request as it was when it was looked at; its place may be another's later.
#[derive(Clone, Copy)]
struct Request {
    id: u32,
    flow_id: u64,
    ordinal: u32,
}

/// A request that came to one server while another had an equal one.
pub(super) struct Lesson {
    outer: Request,
    inner: Request,
    /// It can have come from nowhere else.
    clear: bool,
}

pub(super) type Lessons = VecDeque<Lesson>;

impl Packets {
    /// A connection's first requests tell whether its client is a proxy. `alike`: there are others
    /// of this content.
    pub(super) fn check_role(&mut self, index: u32, id: u32, alike: bool) {
        let flow = self.flows.at_mut(index);
        if flow.is(Flow::ROLE_CHECKED) {
            return;
        }
        if flow.requests >= FIRST {
            flow.set(Flow::ROLE_CHECKED);
        }
        let server = flow.server();
        if !alike || self.exchanges.at(id).is(Exchange::CUT) {
            return;
        }
        // Whichever of several it was made for: if all were sent to one server, that one passed it on.
        let (related, strangers) = self.alike_before(id, false);
        let known = !related.is_empty();
        let before = if known { related } else { strangers };
        let sent_to = |d: &u32| self.flow_of(self.exchanges.at(*d)).map(Flow::server);
        let one = self.are_to_one(&before);
        let Some((&outer, proxy)) = before.first().and_then(|d| Some((d, sent_to(d)?))) else {
            return;
        };
        if known && one && self.hosts.passes.agree(proxy, server) {
            self.is_upstream(index, self.exchanges.at(outer).flow);
            self.flows.at_mut(index).set(Flow::ROLE_CHECKED);
            return;
        }
        if !(known || one) || self.has_rival(id) {
            return;
        }
        if one {
            let content = self.exchanges.at(id).content;
            self.hosts.passes.begin(proxy, server, content);
        }
        if self.lessons.len() >= WAITING {
            self.lessons.pop_front();
        }
        self.lessons.push_back(Lesson {
            outer: self.request(outer),
            inner: self.request(id),
            clear: one,
        });
    }

    /// An equal request is with the same server: that one may have made the other server's.
    fn has_rival(&self, id: u32) -> bool {
        let this = self.exchanges.at(id);
        let Some(server) = self.flow_of(this).map(Flow::server) else {
            return true;
        };
        let rival = |other: u32| {
            let exchange = self.exchanges.at(other);
            let open = exchange.at <= this.at && exchange.over_at().is_none_or(|at| at >= this.at);
            let there = |flow: &Flow| flow.server() == server;
            open && other != id && self.flow_of(exchange).is_some_and(there)
        };
        self.exchanges.any_alike(this.content).any(rival)
    }

    fn request(&self, id: u32) -> Request {
        let exchange = self.exchanges.at(id);
        Request {
            id,
            flow_id: exchange.flow_id,
            ordinal: exchange.ordinal,
        }
    }

    fn still(&self, request: Request) -> Option<&Exchange> {
        let exchange = self.exchanges.at(request.id);
        let same = exchange.flow_id == request.flow_id && exchange.ordinal == request.ordinal;
        (same && exchange.is(Exchange::USED)).then_some(exchange)
    }

    /// Learns from requests that were answered by now.
    pub(super) fn learn_roles(&mut self) {
        if self.lessons.is_empty() {
            return;
        }
        let mut lessons = std::mem::take(&mut self.lessons);
        lessons.retain(|lesson| match self.came_back(lesson) {
            Some(true) => {
                self.learn(lesson);
                false
            }
            came_back => came_back.is_none(),
        });
        self.lessons = lessons;
    }

    /// Whether the inner request's answer, or its failure, came before the outer one's answer; `None` while
    /// that is not known.
    fn came_back(&self, lesson: &Lesson) -> Option<bool> {
        let (Some(outer), Some(inner)) = (self.still(lesson.outer), self.still(lesson.inner))
        else {
            return Some(false);
        };
        let answered = outer.over_at()?;
        if inner.over_at().is_none() && self.now <= answered + AT_ONCE {
            // What is given up may be closed after the failure is told.
            return None;
        }
        // A server's end leads to a failure, and so does a timer's; who asked may give up anything at any
        // time, but is not told of a failure then.
        let timer = |e: &Ended| {
            e.how == End::GivenUp
                && e.at >= inner.at + UNANSWERED
                && e.at.abs_diff(answered) <= AT_ONCE
        };
        let broken = || {
            let by_server = |e: &Ended| matches!(e.how, End::PeerClosed | End::Reset);
            let led_to_it = |e: &Ended| timer(e) || (by_server(e) && e.at <= answered);
            outer.status >= 500 && inner.ended.as_deref().is_some_and(led_to_it)
        };
        let first = inner.first_byte_at;
        let returned = first != 0 && first <= answered;
        Some(outer.status != 0 && (returned || broken()))
    }

    fn learn(&mut self, lesson: &Lesson) {
        let (outer, inner) = (
            self.exchanges.at(lesson.outer.id),
            self.exchanges.at(lesson.inner.id),
        );
        let (Some(from), Some(to)) = (self.flow_of(outer), self.flow_of(inner)) else {
            return;
        };
        let (proxy, client, server) = (from.server(), to.client_ip(), to.server());
        let (content, serving, index) = (inner.content, outer.flow, inner.flow);
        let same =
            self.hosts.same(proxy.ip(), client) || self.hosts.coincide(proxy.ip(), client, content);
        if !same || self.hosts.passes.agree(server, proxy) {
            return;
        }
        if lesson.clear {
            self.hosts.passes.returned(proxy, client, server, content);
        }
        self.is_upstream(index, serving);
    }

    /// Who serves the one connection asks on the other.
    fn is_upstream(&mut self, index: u32, serving: u32) {
        self.flows.at_mut(index).set(Flow::UPSTREAM);
        self.asks_on(index, serving);
    }
}
