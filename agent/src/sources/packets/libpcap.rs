//! What a libpcap that is linked in would need D-Bus and RDMA for: captures of their traffic, which
//! nobody asks this program for. libpcap finds these functions here instead of its own, and their
//! libraries are not needed.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

/// Asked for each device that is to be captured from.
///
/// # Safety
/// libpcap gives room for one number.
unsafe fn not_ours(is_ours: *mut c_int) -> *mut c_void {
    // SAFETY: as the caller promises.
    unsafe { is_ours.write(0) };
    null_mut()
}

/// `pcap_t *dbus_create(const char *device, char *ebuf, int *is_ours)`
#[unsafe(no_mangle)]
unsafe extern "C" fn dbus_create(
    _: *const c_char,
    _: *mut c_char,
    is_ours: *mut c_int,
) -> *mut c_void {
    // SAFETY: libpcap's own pointer.
    unsafe { not_ours(is_ours) }
}

/// `int dbus_findalldevs(pcap_if_list_t *devlistp, char *err_str)`
#[unsafe(no_mangle)]
extern "C" fn dbus_findalldevs(_: *mut c_void, _: *mut c_char) -> c_int {
    0
}

/// `pcap_t *rdmasniff_create(const char *device, char *ebuf, int *is_ours)`
#[unsafe(no_mangle)]
unsafe extern "C" fn rdmasniff_create(
    _: *const c_char,
    _: *mut c_char,
    is_ours: *mut c_int,
) -> *mut c_void {
    // SAFETY: libpcap's own pointer.
    unsafe { not_ours(is_ours) }
}

/// `int rdmasniff_findalldevs(pcap_if_list_t *devlistp, char *err_str)`
#[unsafe(no_mangle)]
extern "C" fn rdmasniff_findalldevs(_: *mut c_void, _: *mut c_char) -> c_int {
    0
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_needs_no_libpcap_where_it_runs() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert!(!maps.contains("libpcap"), "{maps}");
        // Its own functions call those above.
        let devices = pcap::Device::list().unwrap();
        assert!(devices.iter().any(|device| device.name == "any"));
        assert!(
            pcap::Capture::from_device("no such device")
                .unwrap()
                .open()
                .is_err()
        );
    }
}
