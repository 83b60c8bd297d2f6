//! Every route, in process: the real router, store, blobs and engine over a driver that boots nothing.
mod access;
mod builds;
mod fixture;
mod functions;
mod invoke;
mod records;
mod secrets;
mod uploads;
