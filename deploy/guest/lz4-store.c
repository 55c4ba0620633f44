/*
 * Writes standard input to standard output in the LZ4 legacy format, without compressing it: each block is one run of
 * literals.
 *
 * A bzImage must be "compressed", and x86 has no choice for "not at all". The literals are copied with `rep movs`, which
 * takes little even where the decompressor is emulated instruction by instruction; undoing a real compression takes
 * longer there than all the rest of the boot.
 *
 * The kernel's build calls it in place of lz4(1), with arguments that do not matter here.
 */
#include <stdio.h>
#include <stdlib.h>

/* What the kernel takes a block for, other than the last one, to unfold to. */
#define BLOCK (8u << 20)
#define MAGIC 0x184c2102u

static void put(const void *bytes, size_t length)
{
	if (fwrite(bytes, 1, length, stdout) != length) {
		perror("lz4-store: write");
		exit(1);
	}
}

static void put_byte(unsigned byte)
{
	unsigned char one = byte;

	put(&one, 1);
}

static void put_le32(unsigned value)
{
	for (int shift = 0; shift < 32; shift += 8)
		put_byte(value >> shift & 0xff);
}

/* A token says "15 literals, and more": then as many bytes of 255 as fit, and a smaller one. */
static void put_block(const unsigned char *bytes, unsigned length)
{
	int longer = length >= 15;
	unsigned more = longer ? length - 15 : 0;

	put_le32(1 + (longer ? more / 255 + 1 : 0) + length);
	put_byte((longer ? 15 : length) << 4);
	if (longer) {
		for (unsigned i = 0; i < more / 255; i++)
			put_byte(255);
		put_byte(more % 255);
	}
	put(bytes, length);
}

int main(void)
{
	unsigned char *bytes = malloc(BLOCK);
	size_t length;

	if (!bytes) {
		perror("lz4-store");
		return 1;
	}
	put_le32(MAGIC);
	while ((length = fread(bytes, 1, BLOCK, stdin)) > 0)
		put_block(bytes, length);
	if (ferror(stdin)) {
		perror("lz4-store: read");
		return 1;
	}
	if (fflush(stdout)) {
		perror("lz4-store: write");
		return 1;
	}
	return 0;
}
