//! The chart: that it renders what is meant, that the API server takes it, and that its rights are those of the design.

mod chart;
mod definition;
mod monitoring;
mod pods;
mod programs;
mod refused;
mod release;
mod render;
mod rights;
mod settings;
