//! Images that tests make, taken from a layout or an archive, hostile ones among them.
mod hostile;
mod layers;
mod maker;
mod places;
mod registries;
