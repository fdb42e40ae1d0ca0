//! A file system in memory under SQLite that records every write and sync, can fail, and can be cut off at any point.
#![expect(
    unsafe_code,
    reason = "SQLite's VFS is a table of C functions; used in tests only"
)]

use parking_lot::Mutex;
use rusqlite::ffi;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

/// What reached the file system, in order.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Write {
        file: String,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: String,
        size: usize,
    },
    Sync {
        file: String,
    },
    Delete {
        file: String,
    },
    /// Not an operation: the store acknowledged this id.
    Acknowledged(String),
}

/// What the disk does from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Full,
    WriteError,
    SyncError,
}

#[derive(Debug, Default)]
pub(crate) struct Disk {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) log: Vec<Op>,
    pub(crate) fault: Option<Fault>,
    /// The wal-index: shared memory, never on disk.
    pub(crate) shared: BTreeMap<String, Vec<Box<[u8; 32 * 1024]>>>,
}

pub(crate) type Shared = Arc<Mutex<Disk>>;

#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    disk: *const Mutex<Disk>,
    name: *mut String,
}

/// Registers a disk under a VFS name. Both live until the process ends, as SQLite wants it.
pub(crate) fn mount(name: &str, disk: &Shared) {
    let name = CString::new(name).unwrap().into_raw();
    let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
        iVersion: 1,
        szOsFile: c_int::try_from(size_of::<File>()).unwrap(),
        mxPathname: 1024,
        pNext: ptr::null_mut(),
        zName: name,
        pAppData: Arc::into_raw(Arc::clone(disk)).cast_mut().cast(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_pathname),
        xDlOpen: None,
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: None,
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: the table and everything it points to are never freed.
    let registered = unsafe { ffi::sqlite3_vfs_register(vfs, 0) };
    assert_eq!(registered, ffi::SQLITE_OK);
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn disk_of<'a>(vfs: *mut ffi::sqlite3_vfs) -> &'a Mutex<Disk> {
    // SAFETY: pAppData is what `mount` put there and lives for ever.
    unsafe { &*(*vfs).pAppData.cast::<Mutex<Disk>>() }
}

fn file_of<'a>(file: *mut ffi::sqlite3_file) -> (&'a Mutex<Disk>, &'a str) {
    // SAFETY: `open` filled both in, and SQLite calls nothing on a file after `close`.
    unsafe {
        let file = &*file.cast::<File>();
        (&*file.disk, (*file.name).as_str())
    }
}

fn text(name: *const c_char) -> String {
    // SAFETY: SQLite passes a C string that lives for the call.
    unsafe { CStr::from_ptr(name) }
        .to_string_lossy()
        .into_owned()
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    let disk = disk_of(vfs);
    let name = if name.is_null() {
        "unnamed".to_owned()
    } else {
        text(name)
    };
    let exists = disk.lock().files.contains_key(&name);
    // SAFETY: SQLite gives szOsFile bytes for the file.
    let slot = unsafe { &mut *file.cast::<File>() };
    slot.base.pMethods = ptr::null();
    if !exists {
        if flags & ffi::SQLITE_OPEN_CREATE == 0 {
            return ffi::SQLITE_CANTOPEN;
        }
        disk.lock().files.insert(name.clone(), Vec::new());
    }
    slot.disk = disk;
    slot.name = Box::into_raw(Box::new(name));
    slot.base.pMethods = &METHODS;
    if !out_flags.is_null() {
        // SAFETY: not null, so SQLite wants it written.
        unsafe { *out_flags = flags };
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _sync: c_int,
) -> c_int {
    let mut disk = disk_of(vfs).lock();
    let file = text(name);
    if disk.files.remove(&file).is_none() {
        return ffi::SQLITE_IOERR_DELETE_NOENT;
    }
    disk.log.push(Op::Delete { file });
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    _flags: c_int,
    out: *mut c_int,
) -> c_int {
    let exists = disk_of(vfs).lock().files.contains_key(&text(name));
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = c_int::from(exists) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // SAFETY: `name` is a C string, `out` has room for `size` bytes.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if bytes.len() > usize::try_from(size).unwrap_or(0) {
            return ffi::SQLITE_CANTOPEN;
        }
        ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn randomness(
    _vfs: *mut ffi::sqlite3_vfs,
    size: c_int,
    out: *mut c_char,
) -> c_int {
    // Always the same, so that a failing run can be repeated.
    for n in 0..usize::try_from(size).unwrap_or(0) {
        // SAFETY: `out` has room for `size` bytes.
        unsafe { *out.add(n) = (n as u8).wrapping_mul(37) as c_char };
    }
    size
}

unsafe extern "C" fn sleep(_vfs: *mut ffi::sqlite3_vfs, micros: c_int) -> c_int {
    micros
}

unsafe extern "C" fn current_time(_vfs: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = 2_460_000.5 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: made in `open`, closed once.
    unsafe { drop(Box::from_raw((*file.cast::<File>()).name)) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(
    file: *mut ffi::sqlite3_file,
    out: *mut c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (disk, name) = file_of(file);
    let (amount, offset) = (
        usize::try_from(amount).unwrap(),
        usize::try_from(offset).unwrap(),
    );
    // SAFETY: SQLite gives `amount` bytes.
    let out = unsafe { std::slice::from_raw_parts_mut(out.cast::<u8>(), amount) };
    let disk = disk.lock();
    let data = disk
        .files
        .get(name)
        .map_or(&[][..], |data| data.get(offset..).unwrap_or(&[]));
    let got = data.len().min(amount);
    out[..got].copy_from_slice(&data[..got]);
    out[got..].fill(0);
    if got == amount {
        ffi::SQLITE_OK
    } else {
        ffi::SQLITE_IOERR_SHORT_READ
    }
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    amount: c_int,
    offset: ffi::sqlite3_int64,
) -> c_int {
    let (disk, name) = file_of(file);
    let (amount, offset) = (
        usize::try_from(amount).unwrap(),
        usize::try_from(offset).unwrap(),
    );
    // SAFETY: SQLite gives `amount` bytes.
    let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), amount) }.to_vec();
    let mut disk = disk.lock();
    match disk.fault {
        Some(Fault::Full) => return ffi::SQLITE_FULL,
        Some(Fault::WriteError) => return ffi::SQLITE_IOERR_WRITE,
        Some(Fault::SyncError) | None => {}
    }
    apply(
        disk.files.entry(name.to_owned()).or_default(),
        offset,
        &data,
    );
    disk.log.push(Op::Write {
        file: name.to_owned(),
        offset,
        data,
    });
    ffi::SQLITE_OK
}

fn apply(file: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if file.len() < offset + data.len() {
        file.resize(offset + data.len(), 0);
    }
    file[offset..offset + data.len()].copy_from_slice(data);
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    let (disk, name) = file_of(file);
    let size = usize::try_from(size).unwrap();
    let mut disk = disk.lock();
    disk.files
        .entry(name.to_owned())
        .or_default()
        .truncate(size);
    disk.log.push(Op::Truncate {
        file: name.to_owned(),
        size,
    });
    ffi::SQLITE_OK
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    let (disk, name) = file_of(file);
    let mut disk = disk.lock();
    if disk.fault == Some(Fault::SyncError) {
        return ffi::SQLITE_IOERR_FSYNC;
    }
    disk.log.push(Op::Sync {
        file: name.to_owned(),
    });
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(
    file: *mut ffi::sqlite3_file,
    out: *mut ffi::sqlite3_int64,
) -> c_int {
    let (disk, name) = file_of(file);
    let size = disk.lock().files.get(name).map_or(0, Vec::len);
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = i64::try_from(size).unwrap() };
    ffi::SQLITE_OK
}

// One connection at a time uses a disk, so every lock is granted.
unsafe extern "C" fn lock(_file: *mut ffi::sqlite3_file, _level: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_file: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite passes a place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(
    _file: *mut ffi::sqlite3_file,
    _op: c_int,
    _arg: *mut c_void,
) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    512
}

unsafe extern "C" fn device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    // As SQLite's own VFS on Unix: a torn write harms only the bytes it was to write.
    ffi::SQLITE_IOCAP_POWERSAFE_OVERWRITE
}

unsafe extern "C" fn shm_map(
    file: *mut ffi::sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    assert_eq!(size, 32 * 1024);
    let (disk, name) = file_of(file);
    let mut disk = disk.lock();
    let pages = disk.shared.entry(name.to_owned()).or_default();
    let page = usize::try_from(page).unwrap();
    while pages.len() <= page && extend != 0 {
        pages.push(Box::new([0; 32 * 1024]));
    }
    let found = pages
        .get_mut(page)
        .map_or(ptr::null_mut(), |page| page.as_mut_ptr());
    // SAFETY: SQLite passes a place for the answer; a boxed page does not move.
    unsafe { *out = found.cast() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_lock(
    _file: *mut ffi::sqlite3_file,
    _at: c_int,
    _n: c_int,
    _flags: c_int,
) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn shm_barrier(_file: *mut ffi::sqlite3_file) {}

unsafe extern "C" fn shm_unmap(file: *mut ffi::sqlite3_file, remove: c_int) -> c_int {
    let (disk, name) = file_of(file);
    if remove != 0 {
        disk.lock().shared.remove(name);
    }
    ffi::SQLITE_OK
}

/// How the unsynced writes fare when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// All of them are gone.
    Dropped,
    /// All of them arrived.
    Kept,
    /// Some arrived, some in part (sectors of 512 bytes), by this seed.
    Torn(u64),
}

/// The files as they are when the power goes after `log`.
pub(crate) fn after_power_cut(log: &[Op], cut: Cut) -> BTreeMap<String, Vec<u8>> {
    let mut safe: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut unsynced: Vec<&Op> = Vec::new();
    let mut dice = match cut {
        Cut::Torn(seed) => seed | 1,
        Cut::Dropped | Cut::Kept => 1,
    };
    for op in log {
        match op {
            Op::Write { .. } | Op::Truncate { .. } => unsynced.push(op),
            Op::Sync { file } => {
                for op in unsynced.extract_if(.., |op| file_name(op) == Some(file)) {
                    replay(&mut safe, op, |_| true);
                }
                // A synced file exists, even when empty.
                safe.entry(file.clone()).or_default();
            }
            Op::Delete { file } => {
                unsynced.retain(|op| file_name(op) != Some(file));
                safe.remove(file);
            }
            Op::Acknowledged(_) => {}
        }
    }
    for op in unsynced {
        match cut {
            Cut::Dropped => {}
            Cut::Kept => replay(&mut safe, op, |_| true),
            Cut::Torn(_) => replay(&mut safe, op, |_sector| {
                // xorshift: enough to be unfair.
                dice ^= dice << 13;
                dice ^= dice >> 7;
                dice ^= dice << 17;
                dice & 1 == 0
            }),
        }
    }
    safe
}

fn file_name(op: &Op) -> Option<&String> {
    match op {
        Op::Write { file, .. }
        | Op::Truncate { file, .. }
        | Op::Sync { file }
        | Op::Delete { file } => Some(file),
        Op::Acknowledged(_) => None,
    }
}

fn replay(files: &mut BTreeMap<String, Vec<u8>>, op: &Op, mut keep: impl FnMut(usize) -> bool) {
    match op {
        Op::Write { file, offset, data } => {
            let file = files.entry(file.clone()).or_default();
            for (sector, part) in data.chunks(512).enumerate() {
                if keep(sector) {
                    apply(file, offset + sector * 512, part);
                }
            }
        }
        Op::Truncate { file, size } if keep(0) => {
            files.entry(file.clone()).or_default().truncate(*size);
        }
        _ => {}
    }
}
