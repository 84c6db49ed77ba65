//! Experts over real loopback sockets.

#[cfg(test)]
mod calls;
#[cfg(test)]
mod discovery;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod guard;
#[cfg(test)]
mod health;
#[cfg(test)]
mod hedges;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod local;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod wakes;
