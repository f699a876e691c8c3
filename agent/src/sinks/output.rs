//! Standard output on a thread of its own: a reader that is slow, paused or gone never holds up
//! the diagnosis. What it does not take in time is dropped and counted.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::privileges;

/// Bytes that may wait for the reader.
const CAPACITY: usize = 4 * 1024 * 1024;

/// How long the end waits for a reader that does not read.
const PATIENCE: Duration = Duration::from_secs(5);

/// The writing end. Each `write` is taken whole or dropped whole, so lines stay lines.
#[derive(Debug)]
pub struct Output {
    shared: Arc<Shared>,
    capacity: usize,
    patience: Duration,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was queued, written or closed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Vec<u8>>,
    bytes: usize,
    /// A piece has been taken out and is being written.
    writing: bool,
    dropped: u64,
    /// No more pieces will come.
    finished: bool,
    error: Option<io::ErrorKind>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent between statements: a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output {
    /// Starts the thread that writes to `target`.
    pub fn start(
        target: impl Write + Send + 'static,
        capacity: usize,
        patience: Duration,
    ) -> io::Result<Output> {
        let shared = Arc::new(Shared::default());
        std::thread::Builder::new()
            .name("output".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || {
                    privileges::keep(&[]);
                    drain(&shared, target)
                }
            })?;
        Ok(Output {
            shared,
            capacity,
            patience,
        })
    }

    /// Standard output.
    pub fn stdout() -> io::Result<Output> {
        Output::start(io::stdout(), CAPACITY, PATIENCE)
    }

    /// To ask for drops while the output itself belongs to a sink.
    pub fn drops(&self) -> Drops {
        Drops(Arc::clone(&self.shared))
    }

    /// Until everything is written, the reader is gone, or our patience is over.
    fn wait(&self) -> io::Result<()> {
        let queue = self.shared.queue();
        let (queue, waited) = self
            .shared
            .changed
            .wait_timeout_while(queue, self.patience, |queue| {
                queue.error.is_none() && (queue.writing || !queue.pieces.is_empty())
            })
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(kind) = queue.error {
            return Err(kind.into());
        }
        if waited.timed_out() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the reader of standard output does not read; the end of the results is lost",
            ));
        }
        Ok(())
    }
}

/// How much an output has dropped.
#[derive(Clone, Debug)]
pub struct Drops(Arc<Shared>);

impl Drops {
    /// Pieces dropped since the last call.
    pub fn take(&self) -> u64 {
        std::mem::take(&mut self.0.queue().dropped)
    }
}

impl Write for Output {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let mut queue = self.shared.queue();
        if let Some(kind) = queue.error {
            return Err(kind.into());
        }
        // An idle reader takes a piece of any size.
        if queue.bytes > 0 && queue.bytes + piece.len() > self.capacity {
            queue.dropped += 1;
        } else {
            queue.bytes += piece.len();
            queue.pieces.push_back(piece.to_vec());
            self.shared.changed.notify_all();
        }
        Ok(piece.len())
    }

    /// Waits for the reader: call it before what must not be dropped, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        self.wait()
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.shared.queue().finished = true;
        self.shared.changed.notify_all();
    }
}

fn drain(shared: &Shared, mut target: impl Write) {
    let mut queue = shared.queue();
    loop {
        if let Some(piece) = queue.pieces.pop_front() {
            queue.writing = true;
            drop(queue);
            let result = target.write_all(&piece).and_then(|()| target.flush());
            queue = shared.queue();
            queue.writing = false;
            queue.bytes -= piece.len();
            if let Err(error) = result {
                queue.error = Some(error.kind());
                queue.pieces.clear();
            }
            shared.changed.notify_all();
        } else if queue.finished || queue.error.is_some() {
            return;
        } else {
            queue = shared
                .changed
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn everything_is_written_in_order() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut output = Output::start(writer, CAPACITY, PATIENCE).unwrap();
        let reader = std::thread::spawn(move || io::read_to_string(reader));
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        for n in 0..1000 {
            output.write_all(format!("{n}\n").as_bytes()).unwrap();
        }
        output.flush().unwrap();
        drop(output);
        assert_eq!(reader.join().unwrap().unwrap(), expected);
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_not_time() {
        let (reader, writer) = UnixStream::pair().unwrap();
        let mut output = Output::start(writer, 1024 * 1024, Duration::from_millis(50)).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..10_000 {
            output.write_all(&line).unwrap();
        }
        assert!(output.drops().take() > 8_000);
        let error = output.flush().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(reader);
    }

    #[test]
    fn a_reader_that_left_is_a_closed_pipe() {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let mut output = Output::start(writer, CAPACITY, PATIENCE).unwrap();
        output.write_all(b"x\n").unwrap();
        let error = output.flush().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
