use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// A deadline that moves.
///
/// One timer is enough for all of an answer's time-outs, and it is not touched while data flows: moving
/// the deadline later leaves the timer where it is, to be set again when it fires too early.
#[derive(Debug)]
pub(crate) struct Watch {
    timer: Pin<Box<Sleep>>,
    set: Instant,
}

impl Watch {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self { timer: Box::pin(sleep_until(deadline)), set: deadline }
    }

    /// Ready when `deadline` has passed; otherwise the task is woken when it does.
    pub(crate) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if deadline < self.set {
            self.set(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            if self.set >= deadline {
                return Poll::Ready(());
            }
            self.set(deadline);
        }
        Poll::Pending
    }

    fn set(&mut self, deadline: Instant) {
        self.timer.as_mut().reset(deadline);
        self.set = deadline;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_deadline_moves_both_ways() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut watch = Watch::new(at(10));
        let until = |deadline: Instant, watch: &mut Watch| {
            let mut taken = std::mem::replace(watch, Watch::new(at(1000)));
            async move {
                std::future::poll_fn(|cx| taken.poll(deadline, cx)).await;
                (Instant::now(), taken)
            }
        };
        let (now, next) = until(at(30), &mut watch).await;
        assert_eq!(now, at(30), "later than the timer");
        watch = next;
        assert!(until(at(40), &mut watch).now_or_never().is_none());
        let mut watch = Watch::new(at(100));
        let (now, _) = until(at(50), &mut watch).await;
        assert_eq!(now, at(50), "earlier than the timer");
    }
}
