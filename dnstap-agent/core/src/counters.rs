//! Counters of the stages: plain integers with names.

/// Defines a struct of `u64` counters together with the table of their names.
#[macro_export]
macro_rules! counters {
    ($(#[doc = $doc:literal])* pub struct $name:ident {
        $($(#[doc = $field_doc:literal])* $field:ident,)+
    }) => {
        $(#[doc = $doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $field_doc])* pub $field: u64,)+
        }

        impl $name {
            /// Returns each counter's name and value, in order.
            pub fn table(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($field), self.$field)),+].into_iter()
            }

            /// Like [`Self::table`], with each counter's description between name and value.
            pub fn documented(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + use<> {
                [$((stringify!($field), concat!($($field_doc),*), self.$field)),+].into_iter()
            }
        }
    };
}
pub use counters;
