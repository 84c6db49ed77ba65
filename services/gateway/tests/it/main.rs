//! The gateway in process: its whole pipeline, in simulated time.

#[cfg(test)]
mod fairness;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod upstream;
#[cfg(test)]
mod world;
