//! A connection's future that does not go through the scheduler for its own work.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Polls a future again at once when it wakes itself while it is polled.
///
/// Inside one connection hyper's parts wake each other: reading a request's body wakes the connection that
/// reads the socket, in the same task. On a runtime with several threads each such wake puts the task back
/// into a queue and another thread to work. At a light load that more than doubles the CPU of a request.
pub(super) struct Inline<F> {
    future: Pin<Box<F>>,
    relay: Arc<Relay>,
    waker: Waker,
}

/// Turns in one poll, so that a future that always wakes itself lets others run.
const TURNS: usize = 8;

const RESTING: u8 = 0;
const POLLED: u8 = 1;
const WOKEN: u8 = 2;

struct Relay {
    state: AtomicU8,
    task: AtomicWaker,
}

impl<F: Future> Inline<F> {
    pub(super) fn new(future: F) -> Self {
        let relay = Arc::new(Relay { state: AtomicU8::new(RESTING), task: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: Waker::from(relay.clone()), relay }
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // While polled, a wake is noted and taken up after the turn; otherwise it is the task's.
        let noted = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| (state != RESTING).then_some(WOKEN));
        if noted.is_err() {
            self.task.wake();
        }
    }
}

impl<F: Future> Future for Inline<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        this.relay.task.register(cx.waker());
        let mut inner = Context::from_waker(&this.waker);
        for _ in 0..TURNS {
            this.relay.state.store(POLLED, Ordering::Release);
            if let Poll::Ready(output) = this.future.as_mut().poll(&mut inner) {
                return Poll::Ready(output);
            }
            let rest =
                this.relay.state.compare_exchange(POLLED, RESTING, Ordering::AcqRel, Ordering::Acquire);
            if rest.is_ok() {
                return Poll::Pending;
            }
        }
        this.relay.state.store(RESTING, Ordering::Release);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A future that wakes itself this many times, and how often its task was woken.
    fn woken(times: usize) -> (Poll<()>, usize, usize) {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let (mut left, mut polls) = (times, 0);
        let polled = {
            let mut future = Inline::new(poll_fn(|cx| {
                polls += 1;
                if left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }));
            Pin::new(&mut future).poll(&mut Context::from_waker(&Waker::from(count.clone())))
        };
        (polled, polls, count.0.load(Ordering::SeqCst))
    }

    #[test]
    fn its_own_wakes_are_taken_up_at_once() {
        assert_eq!(woken(0), (Poll::Ready(()), 1, 0));
        assert_eq!(woken(3), (Poll::Ready(()), 4, 0));
    }

    #[test]
    fn others_get_their_turn() {
        assert_eq!(woken(1000), (Poll::Pending, TURNS, 1));
    }

    #[test]
    fn wakes_from_outside_are_passed_on() {
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let task = Waker::from(count.clone());
        let kept = std::sync::Mutex::new(None);
        let mut future = Inline::new(poll_fn(|cx| {
            *kept.lock().unwrap() = Some(cx.waker().clone());
            Poll::<()>::Pending
        }));
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(&task)).is_pending());
        kept.lock().unwrap().take().unwrap().wake();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
    }
}
