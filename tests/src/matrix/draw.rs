//! What differs from run to run, drawn from the seed: distances, crowds, sizes, ages, moments.

use std::time::Duration;

use super::proxies::Again;

/// The conditions of one pair, and the source of whatever else it draws.
pub(in crate::matrix) struct Draw {
    random: fastrand::Rng,
    /// One way between proxy and upstream; `None`: both on loopback.
    pub(in crate::matrix) distance: Option<Duration>,
    /// Requests under way at once.
    pub(in crate::matrix) crowd: usize,
    /// Threads or processes of the proxy.
    pub(in crate::matrix) workers: u32,
    /// How long an upstream keeps an idle connection.
    pub(in crate::matrix) idle: Duration,
    /// How long the proxy waits for a response.
    pub(in crate::matrix) patience: Duration,
    /// What the proxy is to try again, if it can be told.
    pub(in crate::matrix) again: Again,
    /// How often it is to check its upstreams' health, if it can be told.
    pub(in crate::matrix) checks: Option<Duration>,
    /// Whether the requests of a crowd are for one path.
    pub(in crate::matrix) alike: bool,
}

impl Draw {
    /// The same names and the same seed give the same conditions.
    pub(in crate::matrix) fn new(seed: u64, proxy: &str, cause: &str, repetition: u32) -> Draw {
        let mut random = fastrand::Rng::with_seed(mix(seed, proxy, cause, repetition));
        let near = random.u8(..3) == 0;
        let distance = Duration::from_millis(random.u64(2..25));
        let mut drawn = Draw {
            distance: (!near).then_some(distance),
            crowd: random.usize(1..9),
            workers: random.u32(1..3),
            idle: Duration::from_millis(random.u64(150..600)),
            patience: Duration::from_millis(random.u64(1200..1800)),
            again: Again::Never,
            checks: None,
            alike: false,
            random,
        };
        drawn.again = drawn.one_of(&[Again::Never, Again::Connects, Again::Anything]);
        drawn.checks = drawn.coin().then(|| drawn.between(60, 300));
        drawn.alike = drawn.coin();
        drawn
    }

    /// A source of its own for what goes on at the same time.
    pub(in crate::matrix) fn fork(&mut self) -> Draw {
        Draw {
            random: self.random.fork(),
            ..*self
        }
    }

    pub(in crate::matrix) fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.random.usize(..all.len())]
    }

    pub(in crate::matrix) fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.random.u64(least..most))
    }

    /// So often of a hundred times.
    pub(in crate::matrix) fn percent(&mut self, often: u8) -> bool {
        self.random.u8(..100) < often
    }

    /// Up to this time.
    pub(in crate::matrix) fn moment(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(self.random.f64())
    }

    /// Bytes of a body: mostly small, now and then more than a buffer.
    pub(in crate::matrix) fn body(&mut self) -> usize {
        match self.random.u8(..4) {
            0 => self.random.usize(2_000..60_000),
            _ => self.random.usize(1..400),
        }
    }

    pub(in crate::matrix) fn coin(&mut self) -> bool {
        self.random.bool()
    }
}

/// FNV-1a: the same on every host and with every version of the compiler.
fn mix(seed: u64, proxy: &str, cause: &str, repetition: u32) -> u64 {
    let words = [proxy.as_bytes(), b"/", cause.as_bytes()].concat();
    let bytes = seed.to_le_bytes().into_iter().chain(words);
    bytes
        .chain(repetition.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::Draw;

    #[test]
    fn a_seed_draws_the_same_for_each_pair_whatever_else_is_run() {
        let drawn = |seed, cause| {
            let mut draw = Draw::new(seed, "envoy", cause, 0);
            (draw.idle, draw.patience, draw.body())
        };
        assert_eq!(drawn(7, "keepalive_race"), drawn(7, "keepalive_race"));
        assert_ne!(drawn(7, "keepalive_race"), drawn(8, "keepalive_race"));
        assert_ne!(drawn(7, "keepalive_race"), drawn(7, "connection_refused"));
    }
}
