/*
 * Draws on the guest's screen and sets its mode, as a driver does. Pixels go through the VGA device's first
 * BAR, the geometry through the Bochs display interface (QEMU: docs/specs/standard-vga.rst,
 * index register at port 0x1CE, data at port 0x1CF).
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { DISPI_INDEX_PORT = 0x1CE, DISPI_DATA_PORT = 0x1CF };
enum { DAC_WRITE_INDEX_PORT = 0x3C8, DAC_DATA_PORT = 0x3C9 };

enum dispi {
    DISPI_ID, DISPI_XRES, DISPI_YRES, DISPI_BPP, DISPI_ENABLE, DISPI_BANK,
    DISPI_VIRT_WIDTH, DISPI_VIRT_HEIGHT, DISPI_X_OFFSET, DISPI_Y_OFFSET, DISPI_REGISTERS
};
enum { DISPI_ID5 = 0xB0C5 };
enum { ENABLED = 0x01, DAC_8BIT = 0x20, LINEAR = 0x40, KEEP_MEMORY = 0x80 };

static const char *const register_names[DISPI_REGISTERS] = {
    "id", "xres", "yres", "bpp", "enable", "bank", "virt_width", "virt_height", "x_offset", "y_offset"
};

struct screen {
    volatile uint8_t *memory; /* the whole BAR */
    size_t size_bytes;
    uint32_t width, height, bytes_per_pixel;
    size_t stride_bytes, offset_bytes;
};

static void die(const char *what)
{
    fprintf(stderr, "fbtool: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fail(const char *what)
{
    fprintf(stderr, "fbtool: %s\n", what);
    exit(1);
}

static uint16_t dispi_read(uint16_t index)
{
    outw(index, DISPI_INDEX_PORT);
    return inw(DISPI_DATA_PORT);
}

static void dispi_write(uint16_t index, uint16_t value)
{
    outw(index, DISPI_INDEX_PORT);
    outw(value, DISPI_DATA_PORT);
}

/* Marsaglia's xorshift64*: the same seed paints the same picture in every run. */
static uint64_t random_state = 1;

static void seed(uint64_t value)
{
    random_state = value * 0x9E3779B97F4A7C15u | 1;
}

static uint32_t next_random(void)
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)(random_state * 0x2545F4914F6CDD1Du >> 32);
}

static uint32_t random_below(uint32_t limit)
{
    return limit ? next_random() % limit : 0;
}

static int read_hex(const char *path, unsigned long *value)
{
    FILE *file = fopen(path, "r");
    int read = file && fscanf(file, "%lx", value) == 1;

    if (file)
        fclose(file);
    return read;
}

/* The first PCI device of class 0x0300xx (VGA compatible display controller). */
static int open_bar(void)
{
    const char *root = "/sys/bus/pci/devices";
    DIR *devices = opendir(root);
    struct dirent *entry;

    if (!devices)
        die(root);
    while ((entry = readdir(devices))) {
        char path[512];
        unsigned long class_code;

        snprintf(path, sizeof path, "%s/%s/class", root, entry->d_name);
        if (!read_hex(path, &class_code) || class_code >> 8 != 0x0300)
            continue;
        snprintf(path, sizeof path, "%s/%s/resource0", root, entry->d_name);
        closedir(devices);
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0)
            die(path);
        return fd;
    }
    fail("no VGA device on the PCI bus");
    return -1;
}

static void read_geometry(struct screen *screen)
{
    uint32_t bits = dispi_read(DISPI_BPP);
    uint32_t virtual_width = dispi_read(DISPI_VIRT_WIDTH);

    if (!(dispi_read(DISPI_ENABLE) & ENABLED))
        fail("the Bochs display interface is off");
    screen->width = dispi_read(DISPI_XRES);
    screen->height = dispi_read(DISPI_YRES);
    screen->bytes_per_pixel = (bits + 7) / 8;
    screen->stride_bytes = (size_t)virtual_width * screen->bytes_per_pixel;
    screen->offset_bytes = dispi_read(DISPI_Y_OFFSET) * screen->stride_bytes
        + (size_t)dispi_read(DISPI_X_OFFSET) * screen->bytes_per_pixel;
}

static struct screen open_screen(void)
{
    struct screen screen = {0};
    struct stat status;
    int fd = open_bar();

    if (fstat(fd, &status))
        die("fstat");
    screen.size_bytes = (size_t)status.st_size;
    screen.memory = mmap(NULL, screen.size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (screen.memory == MAP_FAILED)
        die("mmap of the VGA device's memory (boot with iomem=relaxed)");
    close(fd);
    read_geometry(&screen);
    return screen;
}

/* Writes one pixel with one store. Ignores pixels outside of the memory. */
static void put(const struct screen *screen, uint32_t x, uint32_t y, uint32_t color)
{
    size_t at = screen->offset_bytes + y * screen->stride_bytes + (size_t)x * screen->bytes_per_pixel;
    volatile uint8_t *pixel = screen->memory + at;

    if (at + screen->bytes_per_pixel > screen->size_bytes)
        return;
    switch (screen->bytes_per_pixel) {
    case 1:
        *pixel = (uint8_t)color;
        break;
    case 2:
        *(volatile uint16_t *)pixel = (uint16_t)color;
        break;
    case 3:
        pixel[0] = (uint8_t)color;
        pixel[1] = (uint8_t)(color >> 8);
        pixel[2] = (uint8_t)(color >> 16);
        break;
    default:
        *(volatile uint32_t *)pixel = color;
    }
}

static void fill(const struct screen *screen, uint32_t x, uint32_t y, uint32_t width, uint32_t height, uint32_t color)
{
    for (uint32_t row = y; row < y + height && row < screen->height; row++)
        for (uint32_t column = x; column < x + width && column < screen->width; column++)
            put(screen, column, row, color);
}

static void edges(const struct screen *screen, uint32_t color)
{
    uint32_t right = screen->width - 1, bottom = screen->height - 1;
    const uint32_t points[][2] = {
        {0, 0}, {right, 0}, {0, bottom}, {right, bottom},
        {screen->width / 2, 0}, {screen->width / 2, bottom}, {0, screen->height / 2}, {right, screen->height / 2},
        {1, 1}, {right - 1, bottom - 1},
    };

    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        put(screen, points[i][0], points[i][1], color);
}

static void noise(const struct screen *screen)
{
    for (uint32_t y = 0; y < screen->height; y++)
        for (uint32_t x = 0; x < screen->width; x++)
            put(screen, x, y, next_random());
}

/* Moves the picture up by some rows and paints the free rows, as a console does. */
static void scroll(const struct screen *screen, uint32_t rows)
{
    size_t row_bytes = (size_t)screen->width * screen->bytes_per_pixel;

    if (rows > screen->height)
        rows = screen->height;
    for (uint32_t y = 0; y + rows < screen->height; y++) {
        volatile uint8_t *to = screen->memory + screen->offset_bytes + y * screen->stride_bytes;

        if (screen->offset_bytes + (y + rows) * screen->stride_bytes + row_bytes > screen->size_bytes)
            break;
        memmove((void *)to, (const void *)(to + rows * screen->stride_bytes), row_bytes);
    }
    fill(screen, 0, screen->height - rows, screen->width, rows, next_random());
}

static void set_mode(char **values, int count)
{
    uint16_t numbers[7] = {0};

    for (int i = 0; i < count; i++)
        numbers[i] = (uint16_t)strtoul(values[i], NULL, 0);
    dispi_write(DISPI_ID, DISPI_ID5);
    dispi_write(DISPI_ENABLE, 0);
    dispi_write(DISPI_BANK, 0);
    dispi_write(DISPI_XRES, numbers[0]);
    dispi_write(DISPI_YRES, numbers[1]);
    dispi_write(DISPI_BPP, numbers[2]);
    /* Enabling clears the memory and resets the virtual screen; 8 bits a channel for the palette. */
    dispi_write(DISPI_ENABLE, ENABLED | LINEAR | DAC_8BIT);
    if (count > 3)
        dispi_write(DISPI_VIRT_WIDTH, numbers[3]);
    if (count > 4)
        dispi_write(DISPI_VIRT_HEIGHT, numbers[4]);
    if (count > 5)
        dispi_write(DISPI_X_OFFSET, numbers[5]);
    if (count > 6)
        dispi_write(DISPI_Y_OFFSET, numbers[6]);
}

static void print_registers(void)
{
    for (uint16_t i = 0; i < DISPI_REGISTERS; i++)
        printf("%s=%u%s", register_names[i], dispi_read(i), i + 1 < DISPI_REGISTERS ? " " : "\n");
}

/* Uses two screens of memory, one below the other: paints the hidden one, then shows it. */
static void flip(struct screen *screen, uint32_t times)
{
    uint16_t height = (uint16_t)screen->height;

    dispi_write(DISPI_VIRT_HEIGHT, (uint16_t)(2 * height));
    for (uint32_t i = 0; i < times; i++) {
        uint16_t hidden = dispi_read(DISPI_Y_OFFSET) ? 0 : height;

        screen->offset_bytes = hidden * screen->stride_bytes;
        fill(screen, 0, 0, screen->width, screen->height, next_random());
        edges(screen, next_random());
        dispi_write(DISPI_Y_OFFSET, hidden);
    }
}

/* Writes random values to random registers, as a hostile guest does. Some values are plausible. */
static void random_dispi(uint32_t times)
{
    static const uint16_t likely[] = {
        0, 1, 4, 8, 15, 16, 24, 32, 640, 768, 800, 1024, 2560, 16000, 32768, 65535, 0x41, 0x61, 0xC1
    };

    for (uint32_t i = 0; i < times; i++) {
        uint16_t value = (uint16_t)next_random();

        if (next_random() & 1)
            value = likely[random_below(sizeof likely / sizeof *likely)];
        dispi_write((uint16_t)random_below(DISPI_REGISTERS + 1), value);
    }
}

static void palette(void)
{
    outb(0, DAC_WRITE_INDEX_PORT);
    for (int i = 0; i < 3 * 256; i++)
        outb((uint8_t)next_random(), DAC_DATA_PORT);
}

static void draw_forever(const struct screen *screen, long pause_ms)
{
    struct timespec pause = {pause_ms / 1000, pause_ms % 1000 * 1000000};

    for (;;) {
        uint32_t x = random_below(screen->width), y = random_below(screen->height);

        fill(screen, x, y, 1 + random_below(200), 1 + random_below(100), next_random());
        if (pause_ms)
            nanosleep(&pause, NULL);
    }
}

/* Prints the events of /dev/input/event* until this number of EV_KEY, EV_REL and EV_ABS events. */
static void print_input(long count)
{
    struct pollfd devices[32];
    nfds_t opened = 0;

    for (int i = 0; i < 32; i++) {
        char path[32];
        int fd;

        snprintf(path, sizeof path, "/dev/input/event%d", i);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0)
            devices[opened++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    if (!opened)
        fail("no /dev/input/event* (run load-input)");
    printf("listening %lu\n", (unsigned long)opened);
    fflush(stdout);
    while (count > 0) {
        if (poll(devices, opened, -1) < 0)
            die("poll");
        for (nfds_t i = 0; i < opened; i++) {
            struct input_event event;

            if (!(devices[i].revents & POLLIN) || read(devices[i].fd, &event, sizeof event) != sizeof event)
                continue;
            const char *kind = event.type == EV_KEY ? "key" : event.type == EV_REL ? "rel"
                : event.type == EV_ABS ? "abs" : NULL;
            if (!kind)
                continue;
            printf("%s %u %d\n", kind, event.code, event.value);
            fflush(stdout);
            count--;
        }
    }
}

static const char usage[] =
    "usage: fbtool COMMAND\n"
    "  info                                 print the Bochs display registers\n"
    "  fill COLOR [X Y WIDTH HEIGHT]        fill the screen, or a rectangle of it\n"
    "  pixel X Y COLOR                      write one pixel\n"
    "  edges [COLOR]                        write single pixels at corners and edges\n"
    "  noise SEED [FRAMES]                  write every pixel at random\n"
    "  stress SEED COUNT                     write so many single pixels at random places\n"
    "  scroll ROWS [TIMES]                  move the picture up\n"
    "  draw SEED [PAUSE_MS]                 paint rectangles until killed\n"
    "  mode WIDTH HEIGHT BPP [VIRT_WIDTH VIRT_HEIGHT X_OFFSET Y_OFFSET]\n"
    "  offset X Y                           show another part of the virtual screen\n"
    "  off                                  turn the Bochs display interface off\n"
    "  flip TIMES [SEED]                    double buffering by y_offset\n"
    "  random-dispi SEED COUNT              write random values to random registers\n"
    "  palette SEED                         load 256 random colors\n"
    "  input COUNT                          print input events\n";

static uint32_t number(int argc, char **argv, int at, uint32_t otherwise)
{
    return argc > at ? (uint32_t)strtoul(argv[at], NULL, 0) : otherwise;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "";
    struct screen screen;

    if (!strcmp(command, "input")) {
        print_input(number(argc, argv, 2, 1));
        return 0;
    }
    if (iopl(3))
        die("iopl");
    if (!strcmp(command, "info")) {
        print_registers();
    } else if (!strcmp(command, "mode") && argc >= 5 && argc <= 9) {
        set_mode(argv + 2, argc - 2);
        print_registers();
    } else if (!strcmp(command, "offset") && argc == 4) {
        dispi_write(DISPI_X_OFFSET, (uint16_t)number(argc, argv, 2, 0));
        dispi_write(DISPI_Y_OFFSET, (uint16_t)number(argc, argv, 3, 0));
        print_registers();
    } else if (!strcmp(command, "off")) {
        dispi_write(DISPI_ENABLE, 0);
    } else if (!strcmp(command, "random-dispi") && argc == 4) {
        seed(number(argc, argv, 2, 1));
        random_dispi(number(argc, argv, 3, 1));
        print_registers();
    } else if (!strcmp(command, "palette") && argc == 3) {
        seed(number(argc, argv, 2, 1));
        palette();
    } else if (!strcmp(command, "fill") && (argc == 3 || argc == 7)) {
        screen = open_screen();
        fill(&screen, number(argc, argv, 3, 0), number(argc, argv, 4, 0), number(argc, argv, 5, screen.width),
             number(argc, argv, 6, screen.height), number(argc, argv, 2, 0));
    } else if (!strcmp(command, "pixel") && argc == 5) {
        screen = open_screen();
        put(&screen, number(argc, argv, 2, 0), number(argc, argv, 3, 0), number(argc, argv, 4, 0));
    } else if (!strcmp(command, "edges")) {
        screen = open_screen();
        edges(&screen, number(argc, argv, 2, 0xFFFFFFFF));
    } else if (!strcmp(command, "noise") && argc >= 3) {
        screen = open_screen();
        seed(number(argc, argv, 2, 1));
        for (uint32_t frames = number(argc, argv, 3, 1); frames; frames--)
            noise(&screen);
    } else if (!strcmp(command, "stress") && argc == 4) {
        screen = open_screen();
        seed(number(argc, argv, 2, 1));
        for (uint32_t count = number(argc, argv, 3, 1); count; count--)
            put(&screen, random_below(screen.width), random_below(screen.height), next_random());
    } else if (!strcmp(command, "scroll") && argc >= 3) {
        screen = open_screen();
        for (uint32_t times = number(argc, argv, 3, 1); times; times--)
            scroll(&screen, number(argc, argv, 2, 16));
    } else if (!strcmp(command, "draw") && argc >= 3) {
        screen = open_screen();
        seed(number(argc, argv, 2, 1));
        draw_forever(&screen, number(argc, argv, 3, 0));
    } else if (!strcmp(command, "flip") && argc >= 3) {
        screen = open_screen();
        seed(number(argc, argv, 3, 1));
        flip(&screen, number(argc, argv, 2, 1));
    } else {
        fputs(usage, stderr);
        return 2;
    }
    return 0;
}
