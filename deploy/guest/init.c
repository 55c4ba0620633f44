/*
 * The guest's first process: does what act=verb,verb,... on the kernel's command line says, one after the other. The
 * verbs, and the words it prints, are in README.md, and tests match on them.
 *
 * It has no C library and uses no SSE: on a host that emulates guest kernel code, what a library does before main() and
 * the switching of FPU state take longer than all of this.
 */

/* ---- System calls */

enum {
	SYS_READ = 0,
	SYS_WRITE = 1,
	SYS_OPEN = 2,
	SYS_CLOSE = 3,
	SYS_POLL = 7,
	SYS_IOCTL = 16,
	SYS_NANOSLEEP = 35,
	SYS_SOCKET = 41,
	SYS_CONNECT = 42,
	SYS_ACCEPT = 43,
	SYS_SHUTDOWN = 48,
	SYS_BIND = 49,
	SYS_LISTEN = 50,
	SYS_MOUNT = 165,
	SYS_REBOOT = 169,
};

enum { O_RDONLY = 0, O_WRONLY = 1 };
enum { CONSOLE_IN = 0, CONSOLE = 1 };

static long syscall5(long number, long a, long b, long c, long d, long e)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

static long read(long fd, void *bytes, long length)
{
	return syscall5(SYS_READ, fd, (long)bytes, length, 0, 0);
}

static long write(long fd, const void *bytes, long length)
{
	return syscall5(SYS_WRITE, fd, (long)bytes, length, 0, 0);
}

static long open(const char *path, long flags)
{
	return syscall5(SYS_OPEN, (long)path, flags, 0, 0, 0);
}

static void close(long fd)
{
	syscall5(SYS_CLOSE, fd, 0, 0, 0, 0);
}

static long ioctl(long fd, unsigned long request, void *argument)
{
	return syscall5(SYS_IOCTL, fd, (long)request, (long)argument, 0, 0);
}

static void mount(const char *type, const char *where)
{
	syscall5(SYS_MOUNT, (long)"none", (long)where, (long)type, 0, 0);
}

static void sleep(long seconds)
{
	long time[2] = { seconds, 0 };

	syscall5(SYS_NANOSLEEP, (long)time, 0, 0, 0, 0);
}

static long reboot(unsigned command)
{
	return syscall5(SYS_REBOOT, 0xfee1dead, 672274793, command, 0, 0);
}

/* ---- Strings */

static int length_of(const char *text)
{
	int length = 0;

	while (text[length])
		length++;
	return length;
}

/* What follows `prefix` in `text`; null if it does not begin with it. */
static const char *after(const char *text, const char *prefix)
{
	while (*prefix)
		if (*text++ != *prefix++)
			return 0;
	return text;
}

static int same(const char *a, const char *b)
{
	const char *rest = after(a, b);

	return rest && !*rest;
}

static int is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n';
}

static int is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static long number_in(const char *text, long if_none)
{
	long number = 0;

	if (!is_digit(*text))
		return if_none;
	while (is_digit(*text))
		number = number * 10 + *text++ - '0';
	return number;
}

/* ---- Output: a line is put together here and goes out in one write(), so that the kernel's messages, which share the
 * console, come before or after it. */

static char line[4096];
static int line_length;

static void add_bytes(const char *bytes, int length)
{
	/* Room is left for the end of the line. */
	for (int i = 0; i < length && line_length < (int)sizeof line - 1; i++)
		line[line_length++] = bytes[i];
}

static void add(const char *text)
{
	add_bytes(text, length_of(text));
}

static void add_number(long number)
{
	char digits[24];
	int at = sizeof digits;
	unsigned long rest = number < 0 ? -(unsigned long)number : (unsigned long)number;

	do {
		digits[--at] = '0' + rest % 10;
		rest /= 10;
	} while (rest);
	if (number < 0)
		digits[--at] = '-';
	add_bytes(digits + at, sizeof digits - at);
}

static void end_line(void)
{
	line[line_length++] = '\n';
	write(CONSOLE, line, line_length);
	line_length = 0;
}

/* Waits until the console has sent everything: what comes next may end the machine. (tcdrain) */
static void drain(void)
{
	const unsigned long TCSBRK = 0x5409;

	syscall5(SYS_IOCTL, CONSOLE, TCSBRK, 1, 0, 0);
}

/* ---- Files */

/* Reads a small file; its text is empty if that fails. */
static long read_file(const char *path, char *text, int room)
{
	long length, fd = open(path, O_RDONLY);

	text[0] = 0;
	if (fd < 0)
		return fd;
	length = read(fd, text, room - 1);
	close(fd);
	if (length >= 0)
		text[length] = 0;
	return length;
}

static long write_file(const char *path, const char *text)
{
	long result, fd = open(path, O_WRONLY);

	if (fd < 0)
		return fd;
	result = write(fd, text, length_of(text));
	close(fd);
	return result;
}

/* Reads a file line by line. */
struct reader {
	long fd;
	int at, have;
	char bytes[1024];
};

/* The next line without its end, cut off where `room` ends; its length, -1 after the last one. */
static int next_line(struct reader *reader, char *text, int room)
{
	int length = 0;

	for (;;) {
		if (reader->at == reader->have) {
			reader->at = 0;
			reader->have = read(reader->fd, reader->bytes, sizeof reader->bytes);
			if (reader->have <= 0) {
				reader->have = 0;
				text[length] = 0;
				return length ? length : -1;
			}
		}
		char c = reader->bytes[reader->at++];
		if (c == '\n') {
			text[length] = 0;
			return length;
		}
		if (length < room - 1)
			text[length++] = c;
	}
}

/* Seconds since the kernel was started, as "12.34". */
static void add_uptime(void)
{
	char text[64];
	int length = 0;

	read_file("/proc/uptime", text, sizeof text);
	while (text[length] && !is_space(text[length]))
		length++;
	add_bytes(text, length);
}

/* "WORD uptime" */
static void say_when(const char *word)
{
	add(word);
	add(" ");
	add_uptime();
	end_line();
}

/* "WORD text" */
static void say(const char *word, const char *text)
{
	add(word);
	add(" ");
	add(text);
	end_line();
}

static void failed(const char *verb, long error)
{
	add("GUEST-FAILED ");
	add(verb);
	add(" ");
	add_number(error);
	end_line();
}

/* ---- Verbs. Each has its whole text as `verb` and what follows its name as `rest`. */

static char text[4096];
static struct reader reader;

static void do_poweroff(const char *verb, const char *rest)
{
	(void)rest;
	failed(verb, reboot(0x4321fedc));
}

static void do_reboot(const char *verb, const char *rest)
{
	(void)rest;
	failed(verb, reboot(0x01234567));
}

static void do_halt(const char *verb, const char *rest)
{
	(void)rest;
	failed(verb, reboot(0xcdef0123));
}

static void do_panic(const char *verb, const char *rest)
{
	(void)rest;
	failed(verb, write_file("/proc/sysrq-trigger", "c"));
}

static void do_suspend(const char *verb, const char *rest)
{
	long result;

	(void)verb, (void)rest;
	add("GUEST-SUSPEND mem (of ");
	read_file("/sys/power/state", text, sizeof text);
	for (char *c = text; *c; c++)
		if (*c == '\n')
			*c = 0;
	add(text);
	add(")");
	end_line();
	drain();
	result = write_file("/sys/power/state", "mem");
	add("GUEST-RESUMED rc ");
	/* What write() returns: 3, all of it. */
	add_number(result == 3 ? 0 : result);
	add(" ");
	add_uptime();
	end_line();
}

static void do_wakealarm(const char *verb, const char *rest)
{
	static const char path[] = "/sys/class/rtc/rtc0/wakealarm";
	char after_now[32] = "+";
	long result;
	int at = 1;

	for (; is_digit(*rest) && at < (int)sizeof after_now - 1; at++)
		after_now[at] = *rest++;
	after_now[at] = 0;
	/* An alarm that is set is in the way of another. */
	write_file(path, "0");
	result = write_file(path, after_now);
	if (result < 0)
		failed(verb, result);
	else
		say("GUEST-WAKEALARM", after_now);
}

static void do_sleep(const char *verb, const char *rest)
{
	(void)verb;
	sleep(number_in(rest, 1));
}

/* An event of /dev/input/event*. */
struct input_event {
	long time[2];
	unsigned short type, code;
	int value;
};

static int is_power_press(const struct input_event *event)
{
	enum { EV_KEY = 1, KEY_POWER = 116, PRESSED = 1 };

	return event->type == EV_KEY && event->code == KEY_POWER && event->value == PRESSED;
}

static void do_button(const char *verb, const char *rest)
{
	enum { DEVICES = 8, POLLIN = 1 };
	struct {
		int fd;
		short events, returned;
	} devices[DEVICES];
	struct input_event event;
	static char path[] = "/dev/input/event0";
	long ready = 0;
	int count = 0, pressed = 0;

	(void)rest;
	/* Which of them is the power button depends on the tables: a fixed one, a device of the DSDT, or both. */
	for (int i = 0; i < DEVICES; i++) {
		long fd;

		path[sizeof path - 2] = '0' + i;
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		devices[count].fd = fd;
		devices[count].events = POLLIN;
		count++;
	}
	add("GUEST-WAIT-BUTTON ");
	add_number(count);
	end_line();
	while (count && ready >= 0 && !pressed) {
		ready = syscall5(SYS_POLL, (long)devices, count, -1, 0, 0);
		for (int i = 0; ready > 0 && i < count && !pressed; i++)
			if (devices[i].returned && read(devices[i].fd, &event, sizeof event) == sizeof event)
				pressed = is_power_press(&event);
	}
	for (int i = 0; i < count; i++)
		close(devices[i].fd);
	if (pressed)
		say_when("GUEST-BUTTON KEY_POWER");
	else
		failed(verb, ready);
}

static void do_watchdog(const char *verb, const char *rest)
{
	const unsigned long set_timeout = 0xc0045706;
	int seconds = number_in(rest, 4);
	long result, fd = open("/dev/watchdog", O_WRONLY);

	if (fd < 0) {
		failed(verb, fd);
		return;
	}
	/* It runs since it was opened, and nobody ever feeds it. */
	result = ioctl(fd, set_timeout, &seconds);
	if (result < 0) {
		failed(verb, result);
		return;
	}
	add("GUEST-WDT ");
	add_number(seconds);
	end_line();
}

static void do_cpus(const char *verb, const char *rest)
{
	long result = read_file("/sys/devices/system/cpu/online", text, sizeof text);

	(void)rest;
	if (result < 0) {
		failed(verb, result);
		return;
	}
	if (result && text[result - 1] == '\n')
		text[result - 1] = 0;
	say("GUEST-CPUS", text);
}

static void do_nmi(const char *verb, const char *rest)
{
	(void)rest;
	reader.at = reader.have = 0;
	reader.fd = open("/proc/interrupts", O_RDONLY);
	if (reader.fd < 0) {
		failed(verb, reader.fd);
		return;
	}
	while (next_line(&reader, text, sizeof text) >= 0) {
		const char *c = text;

		while (is_space(*c))
			c++;
		c = after(c, "NMI:");
		if (!c)
			continue;
		/* One number for each CPU, then a description. */
		add("GUEST-NMI");
		for (;;) {
			while (is_space(*c))
				c++;
			if (!is_digit(*c))
				break;
			add(" ");
			add_number(number_in(c, 0));
			while (is_digit(*c))
				c++;
		}
		end_line();
		break;
	}
	close(reader.fd);
}

static void print_file(const char *verb, const char *path)
{
	reader.at = reader.have = 0;
	reader.fd = open(path, O_RDONLY);
	if (reader.fd < 0) {
		failed(verb, reader.fd);
		return;
	}
	while (next_line(&reader, text, sizeof text) >= 0) {
		add(text);
		end_line();
	}
	close(reader.fd);
}

static void do_cat(const char *verb, const char *rest)
{
	print_file(verb, rest);
}

static void do_cmdline(const char *verb, const char *rest)
{
	long result = read_file("/proc/cmdline", text, sizeof text);

	(void)rest;
	if (result < 0) {
		failed(verb, result);
		return;
	}
	if (result && text[result - 1] == '\n')
		text[result - 1] = 0;
	say("GUEST-CMDLINE", text);
}

static void do_echo(const char *verb, const char *rest)
{
	(void)verb, (void)rest;
	reader.at = reader.have = 0;
	reader.fd = CONSOLE_IN;
	add("GUEST-ECHO-READY");
	end_line();
	while (next_line(&reader, text, sizeof text) >= 0) {
		if (same(text, "quit")) {
			add("GUEST-ECHO-QUIT");
			end_line();
			return;
		}
		say("GUEST-ECHO", text);
	}
}

/* An address of vsock(7). */
struct vsock_address {
	unsigned short family, reserved;
	unsigned port, cid;
	unsigned char flags, zero[3];
};

enum { AF_VSOCK = 40, SOCK_STREAM = 1, CID_ANY = -1, CID_HOST = 2, SHUT_WR = 1 };

/* A socket, and by `call` with an address its port; an error. */
static long vsock(long call, unsigned cid, unsigned port)
{
	struct vsock_address address = { .family = AF_VSOCK, .port = port, .cid = cid };
	long result, fd = syscall5(SYS_SOCKET, AF_VSOCK, SOCK_STREAM, 0, 0, 0);

	if (fd < 0)
		return fd;
	result = syscall5(call, fd, (long)&address, sizeof address, 0, 0);
	if (result < 0) {
		close(fd);
		return result;
	}
	return fd;
}

/* Writes all of it; an error. */
static long write_all(long fd, const char *bytes, long length)
{
	long done = 0;

	while (done < length) {
		long result = write(fd, bytes + done, length - done);

		if (result < 0)
			return result;
		done += result;
	}
	return done;
}

static void do_vsock_echo(const char *verb, const char *rest)
{
	long length, total = 0, connection, fd = vsock(SYS_BIND, CID_ANY, number_in(rest, 0));

	if (fd >= 0)
		syscall5(SYS_LISTEN, fd, 1, 0, 0, 0);
	else {
		failed(verb, fd);
		return;
	}
	say("GUEST-VSOCK-LISTENS", rest);
	connection = syscall5(SYS_ACCEPT, fd, 0, 0, 0, 0);
	close(fd);
	if (connection < 0) {
		failed(verb, connection);
		return;
	}
	while ((length = read(connection, text, sizeof text)) > 0) {
		if (write_all(connection, text, length) < 0)
			break;
		total += length;
	}
	close(connection);
	add("GUEST-VSOCK-ECHOED ");
	add_number(total);
	end_line();
}

static void do_vsock_call(const char *verb, const char *rest)
{
	enum { TOTAL = 10000 };
	static char sent[TOTAL];
	long length, good = 0, fd = vsock(SYS_CONNECT, CID_HOST, number_in(rest, 0));

	if (fd < 0) {
		failed(verb, fd);
		return;
	}
	for (int i = 0; i < TOTAL; i++)
		sent[i] = i % 251;
	length = write_all(fd, sent, TOTAL);
	if (length < 0) {
		failed(verb, length);
		close(fd);
		return;
	}
	syscall5(SYS_SHUTDOWN, fd, SHUT_WR, 0, 0, 0);
	while ((length = read(fd, text, sizeof text)) > 0)
		for (long i = 0; i < length && good < TOTAL && text[i] == sent[good]; i++)
			good++;
	close(fd);
	add("GUEST-VSOCK-CALLED ");
	add_number(good);
	end_line();
}

/* ---- The list of them */

static const struct {
	const char *name;
	void (*act)(const char *verb, const char *rest);
	/* Whether something follows the name. */
	int more;
} verbs[] = {
	{ "poweroff", do_poweroff, 0 },
	{ "reboot", do_reboot, 0 },
	{ "halt", do_halt, 0 },
	{ "panic", do_panic, 0 },
	{ "suspend", do_suspend, 0 },
	{ "wakealarm", do_wakealarm, 1 },
	{ "button", do_button, 0 },
	{ "wdt", do_watchdog, 1 },
	{ "cpus", do_cpus, 0 },
	{ "nmi", do_nmi, 0 },
	{ "sleep", do_sleep, 1 },
	{ "cat:", do_cat, 1 },
	{ "echo", do_echo, 0 },
	{ "cmdline", do_cmdline, 0 },
	{ "vsockecho:", do_vsock_echo, 1 },
	{ "vsockcall:", do_vsock_call, 1 },
};

static void act(const char *verb)
{
	for (unsigned i = 0; i < sizeof verbs / sizeof verbs[0]; i++) {
		const char *rest = after(verb, verbs[i].name);

		if (rest && (verbs[i].more || !*rest)) {
			verbs[i].act(verb, rest);
			return;
		}
	}
	say("GUEST-UNKNOWN", verb);
}

/* The terminal's own echo would mix with the lines printed here. */
static void no_terminal_echo(void)
{
	enum { TCGETS = 0x5401, TCSETS = 0x5402, ECHO = 8 };
	struct {
		unsigned input, output, control, local;
		unsigned char rest[64];
	} terminal;

	if (ioctl(CONSOLE_IN, TCGETS, &terminal) < 0)
		return;
	terminal.local &= ~ECHO;
	ioctl(CONSOLE_IN, TCSETS, &terminal);
}

/* The value of the word NAME=value (`name` is with its '=') on the kernel's command line; null if it is not there. */
static char *option(char *words, const char *name)
{
	while (*words) {
		const char *value = after(words, name);

		if (value)
			return words + (value - words);
		while (*words && !is_space(*words))
			words++;
		while (is_space(*words))
			words++;
	}
	return 0;
}

__attribute__((used, noreturn)) void start(void)
{
	static char command_line[4096];
	char *acts;

	mount("proc", "/proc");
	mount("sysfs", "/sys");
	mount("devtmpfs", "/dev");
	no_terminal_echo();
	say_when("GUEST-UP");
	read_file("/proc/cmdline", command_line, sizeof command_line);
	acts = option(command_line, "act=");
	while (acts && *acts && !is_space(*acts)) {
		char *verb = acts;
		char end;

		while (*acts && *acts != ',' && !is_space(*acts))
			acts++;
		end = *acts;
		*acts = 0;
		add("GUEST-ACT ");
		say_when(verb);
		drain();
		act(verb);
		if (end != ',')
			break;
		acts++;
	}
	say_when("GUEST-IDLE");
	for (;;)
		sleep(3600);
}

/* The kernel enters with the stack pointer at argc, aligned to 16 bytes. */
__asm__(".globl _start\n"
	"_start:\n"
	"	xor %ebp, %ebp\n"
	"	call start\n");
