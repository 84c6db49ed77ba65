//! Experts over real loopback sockets.

#[cfg(test)]
mod calls;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod local;
#[cfg(test)]
mod pool;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod settings;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod support;
#[cfg(test)]
mod wakes;
