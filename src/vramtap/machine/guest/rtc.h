/* Real-time clock: a periodic tick, an update each second, the time of day. */
#ifndef RTC_H
#define RTC_H

#include <stdbool.h>
#include <stdint.h>

#define RTC_PERIODIC 0x40u
#define RTC_UPDATED 0x10u

struct time {
    uint8_t hour, minute, second;
};

/* hz: a power of two in 2..1024. seconds: also raise the line at each new second. */
void rtc_start(uint32_t hz, bool seconds);
void rtc_stop(void);

/* Return the events since the last call: RTC_PERIODIC, RTC_UPDATED. */
uint8_t rtc_flags(void);

struct time rtc_time(void);

#endif
