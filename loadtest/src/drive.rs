//! The two ways to drive a server: a fixed number of connections, or a fixed rate of arrivals.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::arrivals::Arrivals;
use crate::exchange::{Broken, Connection, Failure, Reply};
use crate::findings::{Due, Findings, Outcome, slice};
use crate::mix::Mix;

/// What is done in a run.
#[derive(Debug)]
pub struct Plan {
    /// Where to connect.
    pub address: String,
    /// What is sent.
    pub mix: Mix,
    /// When the run began.
    pub start: Instant,
    /// From when on results count.
    pub warm_end: Instant,
    /// Until when requests are started.
    pub end: Instant,
    /// Length of the slices into which the results are cut.
    pub slice: Duration,
    /// How long an answer may take.
    pub patience: Duration,
    /// Most requests of the run; no bound when absent.
    pub most: Option<u64>,
}

/// State that the tasks of a run share; they are on one thread.
#[derive(Debug)]
pub struct Shared {
    /// What to do.
    pub plan: Plan,
    /// What came of it.
    pub findings: RefCell<Findings>,
    /// The number of the next request.
    pub number: Cell<u64>,
    /// Requests that were begun.
    begun: Cell<u64>,
    /// Connections that wait for a request of an open loop; the last that came back goes first.
    idle: RefCell<Vec<Connection>>,
}

impl Shared {
    /// A run that begins with request `first`.
    pub fn new(plan: Plan, first: u64) -> Self {
        Self {
            plan,
            findings: RefCell::default(),
            number: Cell::new(first),
            begun: Cell::new(0),
            idle: RefCell::default(),
        }
    }

    /// Writes the next request into `scratch` and says which item it is.
    fn next(&self, scratch: &mut Vec<u8>) -> usize {
        let number = self.number.replace(self.number.get() + 1);
        self.begun.set(self.begun.get() + 1);
        self.plan.mix.write(number, scratch)
    }

    fn is_enough(&self) -> bool {
        self.plan.most.is_some_and(|most| self.begun.get() >= most)
    }

    fn due(&self, at: Instant, item: usize) -> Due {
        let plan = &self.plan;
        Due { at, item, slice: slice(at, plan.warm_end, plan.end, plan.slice) }
    }
}

/// Closed loop: worker `index` of `workers` sends its next request when the last one is answered. The first
/// requests are spread over `stagger`.
pub async fn closed(shared: Rc<Shared>, index: usize, workers: usize, stagger: Duration) {
    tokio::time::sleep(stagger.mul_f64(index as f64 / workers as f64)).await;
    let mut kept = None;
    let mut request = Vec::new();
    while Instant::now() < shared.plan.end && !shared.is_enough() {
        let at = Instant::now();
        let item = shared.next(&mut request);
        let (outcome, connection) = one(&shared, kept.take(), &request, item).await;
        kept = connection;
        let failed = matches!(outcome, Outcome::Broken(..));
        let ended = Instant::now();
        let mut due = shared.due(at, item);
        // What the end cuts off would look slower than it is in a loop that waits for answers.
        due.slice = due.slice.filter(|_| ended <= shared.plan.end);
        shared.findings.borrow_mut().record(due, outcome, ended);
        if failed {
            // Whoever refuses now is not helped by being asked again at once.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Open loop: every arrival starts a request, whatever became of the others, unless `most_in_flight` are open:
/// that is counted and not sent. Latency counts from the arrival.
pub async fn open(shared: Rc<Shared>, mut due: mpsc::UnboundedReceiver<Instant>, most_in_flight: usize) {
    let mut tasks = JoinSet::new();
    let mut scratch = Vec::new();
    while let Some(at) = due.recv().await {
        while tasks.try_join_next().is_some() {}
        if shared.is_enough() {
            break;
        }
        if tasks.len() >= most_in_flight {
            shared.findings.borrow_mut().not_started(shared.due(at, 0));
            continue;
        }
        let item = shared.next(&mut scratch);
        let request = std::mem::take(&mut scratch);
        let shared = Rc::clone(&shared);
        tasks.spawn_local(async move {
            let due = shared.due(at, item);
            let kept = shared.idle.borrow_mut().pop();
            let (outcome, connection) = one(&shared, kept, &request, item).await;
            shared.findings.borrow_mut().record(due, outcome, Instant::now());
            shared.idle.borrow_mut().extend(connection);
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// Shortest sleep between arrivals: at high rates a few arrivals share one wake-up, so that the client does not
/// spend its CPU on waking up. Their latency counts from when each was due all the same.
const QUANTUM: Duration = Duration::from_micros(200);

/// A thread that sleeps from arrival to arrival: the runtime's own timer would be up to a millisecond late.
/// It ends after the last arrival, or soon after the receiver is gone.
pub fn pace(arrivals: Arrivals, start: Instant) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for offset in arrivals {
            let due = start + offset;
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                std::thread::sleep(early.max(QUANTUM));
            }
            if sender.send(due).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Sends one request, over `kept` if that is still open, and gives the connection back if it may be used again.
async fn one(
    shared: &Shared,
    kept: Option<Connection>,
    request: &[u8],
    item: usize,
) -> (Outcome, Option<Connection>) {
    let plan = &shared.plan;
    let item = &plan.mix.items[item];
    let mut reply = Reply {
        events: item.stream.then(|| crate::sse::Events::new(plan.warm_end..plan.end)),
        ..Reply::default()
    };
    let patience = item.leave_after.unwrap_or(plan.patience);
    let exchange = async {
        let mut connection = match kept.filter(Connection::is_alive) {
            Some(connection) => connection,
            None => Connection::open(&plan.address).await?,
        };
        connection.exchange(request, &mut reply).await?;
        Ok(connection)
    };
    match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(connection)) => {
            let connection = reply.keep_alive.then_some(connection);
            (Outcome::Answered(reply), connection)
        }
        Ok(Err(broken)) => (Outcome::Broken(broken, reply), None),
        Err(_) if item.leave_after.is_some() => (Outcome::Left, None),
        Err(_) => {
            let failure = if reply.first_byte.is_some() { Failure::LateEnd } else { Failure::LateFirstByte };
            let message = format!("no end after {:.1} s", patience.as_secs_f64());
            (Outcome::Broken(Broken { failure, message }, reply), None)
        }
    }
}

#[cfg(test)]
mod tests;
